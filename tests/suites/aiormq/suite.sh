#!/bin/bash
# aiormq: all its tests, with those over TLS, for which it brings certificates along.
prepare() { python_environment; python_source aiormq; }

run() {
  # With a broker given, it asks for no container.
  export AMQP_URL=amqp://guest:guest@localhost:5672/
  run_pytest tests
}

. "$(dirname "$0")/../lib.sh"
