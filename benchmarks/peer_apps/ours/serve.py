"""Starts our server, as boot.sh does, with the application of peer.py."""

import sys

import server
from benchmarks.peer_apps.ours import peer

if __name__ == "__main__":
    sys.modules["microblog_api"] = peer  # from which the server takes the application
    server.main()
