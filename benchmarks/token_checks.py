"""What checking an access token costs, compared with a login token: CPU time on SQLite.

    python -m benchmarks.token_checks

Checks one of each kind, in turns, and asks for `GET /api/users/me` with them,
in this process. Prints the median of the ratios.
"""

import statistics
import tempfile
import time

import flask_migrate

from app import create_app, db
from app.auth.credential import find_credential
from app.models import AccessToken, User
from config import Config

ROUNDS, CALLS = 15, 300


def main():
    with tempfile.TemporaryDirectory() as folder:

        class BenchmarkConfig(Config):
            SQLALCHEMY_DATABASE_URI = f"sqlite:///{folder}/app.db"
            SECRET_KEY = "of no use anywhere else"

        app = create_app(BenchmarkConfig)
        client = app.test_client()
        with app.app_context():
            flask_migrate.upgrade()
            user = User.register(
                username="alice", email="alice@example.com", password="correct horse"
            )
            login = user.get_token()
            access = AccessToken.create(user, "phone", "read", 3600, most=1).text
            db.session.commit()

            def check_login():
                assert find_credential(login).seconds_left
                db.session.remove()

            def check_access():
                assert find_credential(access).seconds_left
                db.session.remove()

            print(f"check: {ratio(check_access, check_login):.2f}")

        def request(token):
            headers = {"Authorization": f"Bearer {token}"}
            client.get("/api/users/me", headers=headers).close()

        print(f"request: {ratio(lambda: request(access), lambda: request(login)):.2f}")
        with app.app_context():
            db.engine.dispose()


def ratio(first, second):
    return statistics.median(seconds(first) / seconds(second) for _ in range(ROUNDS))


def seconds(call):
    start = time.process_time()
    for _ in range(CALLS):
        call()
    return time.process_time() - start


main()
