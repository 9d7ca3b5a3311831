# Thin names for the plain commands; see CONTRIBUTING.md.
.PHONY: build demo test race lint long xcaddy check

build:
	go build -o caddy ./cmd/caddy

demo:
	go run ./cmd/demo

test:
	go test ./...

race:
	go test -race ./...

lint:
	gofmt -l .
	go vet ./...
	go run honnef.co/go/tools/cmd/staticcheck@v0.8.2 ./...

long:
	CLAUDE_BALANCER_LONG=1 go test ./...

xcaddy:
	packaging/xcaddy-build caddy

check:
	.ci/run
