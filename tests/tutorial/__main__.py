"""See `tests.tutorial`."""

import argparse
import logging

from werkzeug.serving import make_server

from tests.tutorial import EDITIONS, create_app, fill


def main():
    parser = argparse.ArgumentParser(prog="python -m tests.tutorial")
    parser.add_argument("--database", required=True, metavar="URL", help="as SQLAlchemy takes it")
    parser.add_argument("--edition", choices=EDITIONS, default="2024")
    parser.add_argument("--fill", action="store_true", help="add rows to each table")
    parser.add_argument("--port", type=int, help="serve at this port; 0 for a free one")
    arguments = parser.parse_args()
    app = create_app(arguments.database, arguments.edition)
    if arguments.fill:
        fill(app)
    if arguments.port is not None:
        serve(app, arguments.port)


def serve(app, port):
    """Serve in threads until the process ends; print the URL first."""
    logging.disable(logging.ERROR)  # its errors are known
    server = make_server("127.0.0.1", port, app, threaded=True)
    print(f"The tutorial's API is at http://127.0.0.1:{server.port}", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
