#!/bin/bash
# celery: the integration tests of its canvas (chains, groups, chords), with Redis as result
# store.
prepare() { python_environment; python_source celery; }

run() {
  redis-server --bind 127.0.0.1 --port 6379 --save '' --dir "$(mktemp -d)" > /dev/null &
  run_pytest -p celery.contrib.pytest t/integration/test_canvas.py
}

. "$(dirname "$0")/../lib.sh"
