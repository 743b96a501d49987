#!/bin/sh
# Pins what pyproject.toml asks for, with hashes and for every platform, in three lock files that agree with each other:
#   requirements.lock        what a service needs (containers)
#   requirements-local.lock  and what ./kap up and ./kap demo need
#   requirements-test.lock   and what the tests and the linters need
# Usage: tools/lock.sh [--upgrade]       with the uv of the PATH, else that of .venv, or UV=/path/to/uv
# Without --upgrade, versions that are pinned already stay where pyproject.toml allows them.
set -eu
cd "$(dirname "$0")/.."
uv=${UV:-uv}
if ! command -v "$uv" >/dev/null; then
    uv=.venv/bin/uv # ./kap brings one
fi

compile() { # output, then further arguments
    output=$1
    shift
    "$uv" pip compile pyproject.toml --quiet --universal --python-version 3.11 --generate-hashes \
        --no-emit-index-url --no-emit-find-links --no-header --output-file "$output" "$@"
}

compile requirements-test.lock --extra local --extra test "$@"
compile requirements-local.lock --extra local --constraint requirements-test.lock "$@"
compile requirements.lock --constraint requirements-test.lock "$@"
