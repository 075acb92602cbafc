#!/bin/bash
# lapin: the tests in its crate.
prepare() { cargo_source lapin; }

run() { run_cargo; }

. "$(dirname "$0")/../lib.sh"
