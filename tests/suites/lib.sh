# What the suites' scripts share. Sourced by tests/suites/NAME/suite.sh, which is called
#
#   suite.sh prepare     fetches the client and its tests, with the network
#   suite.sh run         runs the tests in a room of its own, without the network
#
# in a working folder that lasts, with SUITE naming the script's own folder. A run appends one
# line per test to the file $OUTCOMES: `passed`, `failed` or `skipped`, and the test's name.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
SUITE=$(cd "$(dirname "$0")" && pwd)

# Python environment ./venv with exactly what requirements.txt pins.
python_environment() {
  if ! cmp -s "$SUITE/requirements.txt" venv/requirements.txt; then
    rm -rf venv
    python3 -m venv venv
    venv/bin/pip install --quiet --requirement "$SUITE/requirements.txt"
    cp "$SUITE/requirements.txt" venv/requirements.txt
  fi
}

# The tests of a Python client are in its source distribution, at the version that is pinned:
# unpacked into ./source, anew each time, so that nothing of an earlier run is left in it.
python_source() {
  local name=$1 version
  version=$(sed -n "s/^$name==\([^ ;]*\).*/\1/p" "$SUITE/requirements.txt")
  local file="${name//-/_}-$version.tar.gz"
  if [ ! -f "$file" ]; then
    venv/bin/pip download --quiet --no-deps --no-binary "$name" "$name==$version"
  fi
  rm -rf source
  mkdir source
  tar --extract --file "$file" --directory source --strip-components 1
}

# A certificate of the broker's, signed by itself, as ./broker.pem and ./broker.key.
certificate() {
  [ -f broker.pem ] && return
  openssl req -x509 -newkey rsa:2048 -nodes -days 3650 -subj /CN=localhost \
    -addext 'subjectAltName = DNS:localhost, IP:127.0.0.1' -keyout broker.key -out broker.pem
}

# pytest on files of ./source, with the outcomes noted.
run_pytest() {
  cd source
  PYTHONPATH="$here${PYTHONPATH:+:$PYTHONPATH}" PYTHONDONTWRITEBYTECODE=1 \
    timeout -k 10 "${FILE_SECONDS:-1500}" ../venv/bin/python -m pytest -p outcomes -p no:cacheprovider --quiet -rfE --tb=native \
    --timeout "${TEST_SECONDS:-120}" "$@" || true
}

# The crate NAME at the version that Cargo.toml pins, as ./source with its tests built.
cargo_source() {
  local name=$1 manifest
  mkdir -p pin/src
  cp "$SUITE/Cargo.toml" pin/
  : > pin/src/lib.rs
  manifest=$(cd pin && cargo metadata --format-version 1 | python3 -c "
import json, sys
found = [p for p in json.load(sys.stdin)['packages'] if p['name'] == '$name']
print(found[0]['manifest_path'])")
  rm -rf source
  cp -R "$(dirname "$manifest")" source
  (cd source && CARGO_TARGET_DIR=../target cargo test --quiet --locked --no-run)
}

# The tests of a crate, one after another: they share the names of their queues.
run_cargo() {
  cd source
  { CARGO_TARGET_DIR=../target cargo test --locked --offline --no-fail-fast -- --test-threads 1 \
    2>&1 || true; } | tee /dev/stderr | note_cargo >> "$OUTCOMES"
}

# `test NAME ... ok`, with what the test printed possibly between, as `passed FILE::NAME`.
note_cargo() {
  awk '
    / Running / { split($0, part, /[ (]+/); for (i in part) if (part[i] ~ /\.rs$/) file = part[i] }
    / Doc-tests / { file = "doc" }
    /^test .* \.\.\./ { name = $0; sub(/^test /, "", name); sub(/ \.\.\..*/, "", name); sub(/ - should panic$/, "", name) }
    /(^| )ok$/ && name != "" { print "passed", file "::" name; name = "" }
    /(^| )FAILED$/ && name != "" { print "failed", file "::" name; name = "" }
    /(^| )ignored(, .*)?$/ && name != "" { print "skipped", file "::" name; name = "" }'
}

case ${1:-} in
  prepare) prepare ;;
  run) run ;;
  *) echo "usage: $0 prepare|run" >&2; exit 2 ;;
esac
