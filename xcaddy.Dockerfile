# Caddy with claude-balancer, built from this checkout:
#
#	docker build -f xcaddy.Dockerfile -t caddy-claude .
#	docker compose -f packaging/compose.yaml up -d
#
# The database lies on the /data volume, beside the certificates, in
# /data/caddy/claude-accounts.db. Accounts are managed inside the container:
#
#	docker exec -it <container> caddy claude-balancer add work --mode max
FROM golang:1.26.8-alpine3.24 AS builder
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
# The build itself is in a script, which CI runs, too.
RUN packaging/xcaddy-build /usr/bin/caddy

FROM caddy:2.11.9-alpine
COPY --from=builder /usr/bin/caddy /usr/bin/caddy
COPY Caddyfile.example /etc/caddy/Caddyfile
# Ports below 1024 without root; folders that the volumes take their owner from.
RUN setcap cap_net_bind_service=+ep /usr/bin/caddy \
	&& adduser -S -D -H -u 1001 -G nobody caddy \
	&& mkdir -p /data/caddy /config/caddy \
	&& chown -R caddy /data /config
USER caddy
VOLUME ["/data", "/config"]
# Answers once a configuration with claude_balancer is live.
HEALTHCHECK --interval=30s --timeout=5s --start-period=10s \
	CMD wget -q -O /dev/null http://127.0.0.1:2019/claude_balancer/version || exit 1
