"""What checking each kind of token costs, compared with the shared login token.

    python -m benchmarks.token_checks

On SQLite and on a PostgreSQL server of its own: looks up one of each kind, in turns, and
asks for `GET /api/users/me` with them, in this process. Prints the median of the ratios of
CPU time.
"""

import statistics
import tempfile
import time
from contextlib import contextmanager

import flask_migrate

from app import create_app, db
from app.auth.credential import find_credential
from app.models import AccessToken, DeviceSession, User
from config import Config, database_uri
from tests.services import PostgreSQL

ROUNDS, CALLS = 25, 300


@contextmanager
def databases():
    """Yield the URI of an empty database of each kind, by its name."""
    with tempfile.TemporaryDirectory() as folder, PostgreSQL() as postgresql:
        yield {
            "SQLite": f"sqlite:///{folder}/app.db",
            "PostgreSQL": database_uri(postgresql.url),
        }


def main():
    with databases() as uris:
        for name, uri in uris.items():
            print(f"{name}: {compare(uri)}")


def compare(uri):
    """Return the ratios as a text."""

    class BenchmarkConfig(Config):
        SQLALCHEMY_DATABASE_URI = uri
        SECRET_KEY = "of no use anywhere else"

    app = create_app(BenchmarkConfig)
    client = app.test_client()
    with app.app_context():
        flask_migrate.upgrade()
        user = User.register(username="alice", email="alice@example.com", password="correct horse")
        login = user.get_token()
        others = {
            "device": DeviceSession.start(user, "phone", 3600, most=1).text,
            "access": AccessToken.create(user, "phone", "read", 3600, most=1).text,
        }
        db.session.commit()

        def check(token):
            assert find_credential(token).seconds_left
            db.session.remove()

        checks = {kind: ratio(check, token, login) for kind, token in others.items()}

    def request(token):
        client.get("/api/users/me", headers={"Authorization": f"Bearer {token}"}).close()

    requests = {kind: ratio(request, token, login) for kind, token in others.items()}
    with app.app_context():
        db.engine.dispose()
    return ", ".join(
        f"{kind}: check {checks[kind]:.2f}, request {requests[kind]:.2f}" for kind in others
    )


def ratio(call, token, other):
    """Return how much longer `call(token)` takes than `call(other)`."""
    return statistics.median(cpu_time(call, token) / cpu_time(call, other) for _ in range(ROUNDS))


def cpu_time(call, token):
    call(token)
    began = time.process_time()
    for _ in range(CALLS):
        call(token)
    return time.process_time() - began


if __name__ == "__main__":
    main()
