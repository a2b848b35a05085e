#!/usr/bin/env bash
# From a fresh clone to a running server: installs, upgrades the schema, serves.
# README.md has the settings.
set -euo pipefail
cd "$(dirname "$0")"
. ./venv.sh

use_requirements requirements.txt
# Waits for a database that does not answer yet; any other failure ends here.
flask db upgrade
exec gunicorn
