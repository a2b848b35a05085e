#!/usr/bin/env bash
# From a fresh clone to a running server: installs, upgrades the schema, serves.
# README.md has the settings.
set -euo pipefail
cd "$(dirname "$0")"
. ./venv.sh

use_requirements requirements.txt
# What the server writes, its database above all, is for its owner alone.
umask 077
# Waits for a database that does not answer yet; any other failure ends here.
python -m flask --app microblog_api db upgrade
exec python -m gunicorn
