#!/bin/bash
# amqp091-go: all tests of the module, with those that need a broker.
module=github.com/rabbitmq/amqp091-go

prepare() {
  cp "$SUITE/go.mod" "$SUITE/go.sum" .
  go mod download
  # The module's folder in the cache cannot be written to, and is no main module.
  chmod -R u+w source 2>/dev/null || true
  rm -rf source
  cp -R "$(go list -m -f '{{.Dir}}' "$module")" source
  chmod -R u+w source
  (cd source && go mod download && go test -c -tags integration -o ../tests .)
}

run() {
  cd source
  # With it, a test of memory alarms runs too.
  if [ -n "${RABBITMQCTL:-}" ]; then export RABBITMQ_RABBITMQCTL_PATH=$RABBITMQCTL; fi
  { timeout -k 10 "${SUITE_SECONDS:-600}" ../tests -test.v -test.timeout "${SUITE_SECONDS:-600}s" 2>&1 || true; } \
    | tee /dev/stderr | sed -nE 's/^( *)--- (PASS|FAIL|SKIP): ([^ ]+).*/\2 \3/p' \
    | sed -E 's/^PASS/passed/; s/^FAIL/failed/; s/^SKIP/skipped/' >> "$OUTCOMES"
}

. "$(dirname "$0")/../lib.sh"
