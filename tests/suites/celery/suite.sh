#!/bin/bash
# celery: the integration tests that use the broker, with Redis as result store, and those of
# test_tasks.py that can do without one over `rpc://`. Every file is a run of its own, as an
# embedded worker that does not end would take the rest along.
FILES='beat group_chains inspect loader redis_backend request_backend_down security
  serialization tasks upgrade worker'
OVER_RPC='test_simple_call or test_basic_task or test_multiprocess_producer
  or test_multithread_producer or test_ignore_result or test_pydantic or test_timeout
  or test_expired or test_eta or test_fail or test_wrong_arguments or test_retry
  or test_unicode_task'

prepare() { python_environment; python_source celery; }

run() {
  redis-server --bind 127.0.0.1 --port 6379 --save '' --dir "$(mktemp -d)" > /dev/null &
  # Tests start `celery` by name.
  PATH="$PWD/venv/bin:$PATH"
  local file
  for file in $FILES; do
    (run_pytest -p celery.contrib.pytest "t/integration/test_$file.py")
  done
  OVER_RPC=${OVER_RPC//$'\n'/ }
  export TEST_BACKEND=rpc:// NAME_PREFIX=rpc:
  (run_pytest -p celery.contrib.pytest t/integration/test_tasks.py -k "$OVER_RPC")
}

. "$(dirname "$0")/../lib.sh"
