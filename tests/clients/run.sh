#!/bin/bash
# Runs the client suites against the broker at AMQP_URL.
#
#   AMQP_URL=amqp://guest:guest@localhost:5672/ tests/clients/run.sh [python] [node] [go] [java] [rust]
#
# With HTTP_URL set (http://localhost:15672) the tests of deferred calls, workers over HTTP and full queues
# run too, in the python suite. CLIENT_TIMEOUT bounds one suite, in seconds. Ends with one line of totals,
# and with an exit code that is not 0 when anything failed.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
: "${AMQP_URL:?run.sh: AMQP_URL is not set}"
limit=${CLIENT_TIMEOUT:-300}
export AMQP_URL PYTHONDONTWRITEBYTECODE=1

[ $# -gt 0 ] || set -- python node go java rust

suite_python() {
  cd "$here/python"
  if [ -n "${HTTP_URL:-}" ]; then
    timeout "$limit" .venv/bin/pytest
  else
    echo "python: calls_test.py, workers_test.py and backpressure_test.py are left out, for HTTP_URL is not set"
    timeout "$limit" .venv/bin/pytest --ignore=calls_test.py --ignore=workers_test.py \
      --ignore=backpressure_test.py
  fi
}

suite_node() { cd "$here/node" && timeout "$limit" node --test; }

suite_go() { cd "$here/go" && timeout "$limit" go test -count=1; }

suite_java() { cd "$here/java" && timeout "$limit" mvn --quiet --batch-mode -Dstyle.color=never test; }

suite_rust() { cd "$here/rust" && timeout "$limit" cargo test --quiet --locked -- --test-threads=4; }

# Each runner has closing words of its own; these make one form of them.
closing() {
  case $1 in
    node) awk '/^# pass /{p=$3} /^# fail /{f+=$3} /^# cancelled /{f+=$3} END{if (p != "") print p, f+0}' ;;
    rust) awk '/^test result:/{p+=$4; f+=$6; seen=1} END{if (seen) print p, f}' ;;
    *) sed -n "s/.*$1: \([0-9]*\) passed, \([0-9]*\) failed.*/\1 \2/p" | tail -n 1 ;;
  esac
}

passed=0 failed=0
log=$(mktemp)
trap 'rm -f "$log"' EXIT
lines=()
for language in "$@"; do
  "$here/install.sh" "$language"
  started=$SECONDS
  code=0
  (set -e; "suite_$language") >"$log" 2>&1 || code=$?
  read -r p f < <(closing "$language" <"$log") || { p=0 f=1; }
  # A runner that broke off has failed, whatever it counted.
  if [ "$code" -ne 0 ] && [ "$f" -eq 0 ]; then f=1; fi
  if [ "$f" -ne 0 ]; then cat "$log"; else grep 'is left out' "$log" || true; fi
  [ "$code" -ne 124 ] || echo "$language: stopped after $limit s"
  lines+=("$language: $p passed, $f failed")
  echo "${lines[-1]} ($((SECONDS - started)) s)"
  passed=$((passed + p)) failed=$((failed + f))
done

printf '%s\n' "" "${lines[@]}"
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
