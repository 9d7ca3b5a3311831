# Caddy with claude-balancer, built from this checkout:
#
#	docker build -f xcaddy.Dockerfile -t caddy-claude .
#	docker run -p 443:443 -v caddy_data:/data -v $PWD/Caddyfile:/etc/caddy/Caddyfile caddy-claude
#
# The database is on the /data volume, beside the certificates. Accounts are
# managed inside the container: docker exec -it … caddy claude-balancer add work
ARG CADDY_VERSION=2.11.9
FROM caddy:${CADDY_VERSION}-builder AS builder
# The builder image's own default may be older than this module needs.
ARG CADDY_VERSION
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
# A version with a local replacement needs no look-up in a module proxy.
RUN CGO_ENABLED=0 xcaddy build v${CADDY_VERSION} \
	--with github.com/claude-balancer/claude-balancer@v0.0.0=/src \
	--output /usr/bin/caddy

FROM caddy:${CADDY_VERSION}
COPY --from=builder /usr/bin/caddy /usr/bin/caddy
RUN adduser -S -D -H -u 1001 -G nobody caddy \
	&& mkdir -p /data/caddy /config/caddy \
	&& chown -R caddy /data /config
USER caddy
COPY Caddyfile.example /etc/caddy/Caddyfile
HEALTHCHECK --interval=30s --timeout=5s --start-period=10s \
	CMD wget -q -O /dev/null http://localhost:2019/claude_balancer/version || exit 1
