#!/bin/bash
# py-amqp: its integration tests.
prepare() { python_environment; python_source amqp; }

run() { run_pytest t/integration -k "not tls"; }

. "$(dirname "$0")/../lib.sh"
