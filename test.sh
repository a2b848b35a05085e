#!/usr/bin/env bash
# From a fresh clone to the test suite; arguments go to pytest.
# With TEST_DATABASE_URL set to a PostgreSQL database, every test runs there too.
set -euo pipefail
cd "$(dirname "$0")"
. ./venv.sh

use_requirements requirements-dev.txt
exec python -m pytest "$@"
