#!/usr/bin/env bash
# From a fresh clone to a running server: installs, upgrades the schema, serves.
# docs/settings.md has the settings.
set -euo pipefail
cd "$(dirname "$0")"
. ./venv.sh

use_requirements requirements.txt
# The database and other files of the server are readable only by their owner.
umask 077
# Waits for a database that does not answer yet; ends at any other failure.
python -m flask --app microblog_api db upgrade
exec python server.py
