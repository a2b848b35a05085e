#!/usr/bin/env bash
# generate.sh URL
# Writes the package microblog_api_client from the document that the server at URL publishes.
set -euo pipefail
url=$1
cd "$(dirname "$0")"

openapi-python-client generate --url "$url/openapi.json" --config openapi-python-client.yml \
    --meta none --output-path microblog_api_client --overwrite --fail-on-warning
