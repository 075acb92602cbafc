#!/bin/bash
# The README's test command: builds the server and runs a real client's suite against it.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
cargo build --release
tests/clients/install.sh python
data=$(mktemp -d)
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
target/release/leveret serve --data-dir "$data" --amqp-listen "127.0.0.1:$port" --log warn &
server=$!
trap 'kill "$server" 2>/dev/null || true; wait "$server" 2>/dev/null || true; rm -rf "$data"' EXIT
for _ in $(seq 100); do
  if (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then break; fi
  sleep 0.1
done
AMQP_URL="amqp://guest:guest@127.0.0.1:$port/" tests/clients/run.sh python
