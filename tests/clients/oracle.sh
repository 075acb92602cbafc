#!/bin/bash
# Runs a command against a throw-away RabbitMQ, the oracle of these suites.
#
#   tests/clients/oracle.sh tests/clients/run.sh python go
#
# The broker listens on free loopback ports, keeps its files in a temporary folder
# and is ended by process id when the command returns. AMQP_URL names it.
# RABBITMQ_SERVER may point at another rabbitmq-server script.
set -euo pipefail

server=${RABBITMQ_SERVER:-/usr/lib/rabbitmq/bin/rabbitmq-server}
[ -x "$server" ] || { echo "oracle: no RabbitMQ at $server" >&2; exit 2; }
[ $# -gt 0 ] || { echo "usage: oracle.sh COMMAND [ARGUMENT…]" >&2; exit 2; }

read -r amqp_port dist_port epmd_port < <(python3 - <<'PY'
import socket
held = [socket.create_server(("127.0.0.1", 0)) for _ in range(3)]
print(*(s.getsockname()[1] for s in held))
PY
)
home=$(mktemp -d)
: > "$home/plugins"
cat > "$home/rabbitmq.conf" <<CONF
listeners.tcp.1 = 127.0.0.1:$amqp_port
disk_free_limit.absolute = 50MB
log.console = true
log.console.level = warning
log.file = false
CONF

# The Erlang port mapper would otherwise stay behind as a daemon of its own.
epmd=$(ls /usr/lib/erlang/erts-*/bin/epmd /usr/bin/epmd 2>/dev/null | head -n 1)
ERL_EPMD_ADDRESS=127.0.0.1 "$epmd" -port "$epmd_port" >"$home/epmd.log" 2>&1 &
epmd_pid=$!

env HOME="$home" ERL_EPMD_PORT="$epmd_port" ERL_EPMD_ADDRESS=127.0.0.1 \
  RABBITMQ_NODENAME="oracle$amqp_port@localhost" RABBITMQ_DIST_PORT="$dist_port" \
  RABBITMQ_MNESIA_BASE="$home/data" RABBITMQ_LOG_BASE="$home/log" \
  RABBITMQ_ENABLED_PLUGINS_FILE="$home/plugins" RABBITMQ_CONFIG_FILE="$home/rabbitmq.conf" \
  RABBITMQ_CONF_ENV_FILE=/dev/null RABBITMQ_PID_FILE="$home/pid" \
  setsid "$server" >"$home/server.log" 2>&1 &
server_pid=$!

# setsid gave the broker a process group of its own, so that its helpers end with it.
stop() {
  kill -TERM -- "-$server_pid" 2>/dev/null || kill -TERM "$server_pid" 2>/dev/null || true
  for _ in $(seq 100); do kill -0 -- "-$server_pid" 2>/dev/null || break; sleep 0.1; done
  kill -KILL -- "-$server_pid" 2>/dev/null || true
  kill "$epmd_pid" 2>/dev/null || true
  wait 2>/dev/null || true
  rm -rf "$home"
}
trap stop EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

up=
for _ in $(seq 300); do
  if (exec 3<>"/dev/tcp/127.0.0.1/$amqp_port") 2>/dev/null; then up=1; break; fi
  kill -0 "$server_pid" 2>/dev/null || break
  sleep 0.2
done
[ -n "$up" ] || { echo "oracle: RabbitMQ did not start" >&2; tail -n 30 "$home/server.log" >&2; exit 1; }

export AMQP_URL="amqp://guest:guest@127.0.0.1:$amqp_port/"
echo "oracle: RabbitMQ at $AMQP_URL"
"$@"
