#!/usr/bin/env bash
# From a fresh clone to the tests.
#
#     ./test.sh               the quick tests, on SQLite
#     ./test.sh --all         all tests, with coverage; on PostgreSQL too, if
#                             TEST_DATABASE_URL names a database; arguments after
#                             it are for the last part
#     ./test.sh ARGUMENTS...  pytest with these arguments
set -euo pipefail
cd "$(dirname "$0")"
. ./venv.sh

use_requirements requirements-dev.txt
on_all_cores=(python -m pytest --numprocesses auto)
if [ $# -eq 0 ]; then
    unset TEST_DATABASE_URL
    exec "${on_all_cores[@]}" -m "not slow" --dist worksteal
elif [ "$1" = --all ]; then
    shift
    status=0
    "${on_all_cores[@]}" -m "not slow" --dist worksteal --cov --cov-report= || status=$?
    # By files, whose tests share fixtures that take seconds.
    "${on_all_cores[@]}" -m "slow and not alone" --dist loadfile \
        --cov --cov-append --cov-report= || status=$?
    python -m pytest -m "slow and alone" --cov --cov-append \
        --cov-report=term-missing:skip-covered "$@" || status=$?
    exit $status
fi
exec python -m pytest "$@"
