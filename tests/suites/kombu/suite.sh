#!/bin/bash
# kombu: its integration tests over py-amqp.
prepare() { python_environment; python_source kombu; }

run() { run_pytest t/integration/test_py_amqp.py; }

. "$(dirname "$0")/../lib.sh"
