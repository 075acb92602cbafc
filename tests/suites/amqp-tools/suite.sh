#!/bin/bash
# amqp-tools: the command line programs of librabbitmq (C), from Debian. They come without
# tests, so these are ours: one message's way through each program.
prepare() { for tool in publish get consume declare-queue delete-queue; do command -v "amqp-$tool" > /dev/null; done; }

expect() {
  local name=$1 want=$2
  shift 2
  local got
  if got=$(timeout 20 "$@" 2>&1) && [ "$got" = "$want" ]; then
    echo "passed $name" >> "$OUTCOMES"
  else
    echo "failed $name" >> "$OUTCOMES"
    echo "$name: wanted '$want', got '$got'" >&2
  fi
}

refused() {
  local name=$1 text=$2 got
  shift 2
  if got=$(timeout 20 "$@" 2>&1) || ! grep -q "$text" <<< "$got"; then
    echo "failed $name" >> "$OUTCOMES"
    echo "$name: wanted a refusal with '$text', got '$got'" >&2
  else
    echo "passed $name" >> "$OUTCOMES"
  fi
}

run() {
  local at=(--server=localhost)
  expect declare tools amqp-declare-queue "${at[@]}" --queue=tools --durable
  expect declare-again tools amqp-declare-queue "${at[@]}" --queue=tools --durable
  refused declare-otherwise 'inequivalent arg' amqp-declare-queue "${at[@]}" --queue=tools
  expect publish '' amqp-publish "${at[@]}" --routing-key=tools --persistent --body=first
  expect publish-headers '' amqp-publish "${at[@]}" --routing-key=tools --content-type=text/plain \
    --reply-to=none --header='kind: test' --body=second
  expect get first amqp-get "${at[@]}" --queue=tools
  expect consume second amqp-consume "${at[@]}" --queue=tools --count=1 --prefetch-count=1 cat
  refused get-empty '' amqp-get "${at[@]}" --queue=tools
  expect delete 0 amqp-delete-queue "${at[@]}" --queue=tools
  refused get-deleted 'NOT_FOUND' amqp-get "${at[@]}" --queue=tools
  refused wrong-password 'ACCESS_REFUSED' amqp-get "${at[@]}" --username=guest --password=wrong --queue=tools
}

. "$(dirname "$0")/../lib.sh"
