#!/usr/bin/env bash
# From a fresh clone to the tests.
#
#     ./test.sh               the quick tests, on SQLite
#     ./test.sh --all         all tests, with coverage; on PostgreSQL too, if
#                             TEST_DATABASE_URL names a database; arguments after
#                             it are for the slow tests, which are the second half
#     ./test.sh ARGUMENTS...  pytest with these arguments
set -euo pipefail
cd "$(dirname "$0")"
. ./venv.sh

use_requirements requirements-dev.txt
# On all cores; the others measure, or need the machine to themselves.
quick=(python -m pytest -m "not slow" --numprocesses auto --dist worksteal)
if [ $# -eq 0 ]; then
    unset TEST_DATABASE_URL
    exec "${quick[@]}"
elif [ "$1" = --all ]; then
    shift
    status=0
    "${quick[@]}" --cov --cov-report= || status=$?
    python -m pytest -m slow --cov --cov-append \
        --cov-report=term-missing:skip-covered "$@" || status=$?
    exit $status
fi
exec python -m pytest "$@"
