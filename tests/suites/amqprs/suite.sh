#!/bin/bash
# amqprs: the tests in its crate, which log in as `user` with the password `bitnami`.
prepare() { cargo_source amqprs; }

run() {
  if [ -n "${RABBITMQCTL:-}" ]; then
    "$RABBITMQCTL" add_user user bitnami
    "$RABBITMQCTL" set_user_tags user administrator
    "$RABBITMQCTL" set_permissions user '.*' '.*' '.*'
  fi
  run_cargo
}

. "$(dirname "$0")/../lib.sh"
