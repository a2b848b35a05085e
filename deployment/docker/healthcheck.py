"""Ends with status 0 if the server in this container answers; HEALTHCHECK of the image."""

import http.client
import os
import ssl
import sys

port = int(os.environ.get("PORT") or 5000)
if os.environ.get("TLS_CERTIFICATE"):
    # The name in the certificate is not that of this container.
    unverified = ssl._create_unverified_context()  # noqa: S323, SLF001  ssl has no public name for it
    connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=4, context=unverified)
else:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=4)
connection.request("GET", "/livez")
sys.exit(connection.getresponse().status != 200)  # noqa: PLR2004  of HTTP
