#!/bin/bash
# Installs what the client suites need, each into its own ignored folder.
#
#   tests/clients/install.sh [python] [node] [go] [java] [rust]
#
# Versions are pinned by the files in the folders; nothing is installed for the machine.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

install_python() {
  # A stamp of the pins saves the look-up when nothing changed.
  if ! cmp -s python/requirements.txt python/.venv/installed.txt; then
    python3 -m venv --clear python/.venv
    python/.venv/bin/pip install --quiet --disable-pip-version-check -r python/requirements.txt
    cp python/requirements.txt python/.venv/installed.txt
  fi
}

install_node() {
  if ! cmp -s node/package-lock.json node/node_modules/installed.json; then
    (cd node && npm ci --silent --no-audit --no-fund)
    cp node/package-lock.json node/node_modules/installed.json
  fi
}

install_go() { (cd go && go mod download && go vet ./...); }

install_java() { (cd java && mvn --quiet --batch-mode -Dstyle.color=never test-compile); }

install_rust() { (cd rust && cargo test --quiet --locked --no-run); }

[ $# -gt 0 ] || set -- python node go java rust
for language in "$@"; do
  case $language in
    python | node | go | java | rust) "install_$language" ;;
    *) echo "install.sh: unknown client '$language'" >&2; exit 2 ;;
  esac
done
