"""A move from a tutorial application that is killed, and one while its clients go on."""

import os
import random
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager, suppress

import pytest
import sqlalchemy as sa

from app import db
from tests.conftest import CHEAP, DATABASES, postgresql_database
from tests.helpers import ROOT, Server, basic, bearer
from tests.move_in import SOURCES, rows_at, tutorial_at

KEY = "of the tests, long enough for no warning"


@contextmanager
def new_database(kind, directory):
    """Yield the URL of a database of ours without rows."""
    if kind == "sqlite":
        directory.mkdir(exist_ok=True)
        url = f"sqlite:///{directory}/app.db"
        run("db", "upgrade", url=url)
        yield url
        return
    with postgresql_database() as url:
        run("db", "upgrade", url=url)
        yield url


def start(*args, url):
    return subprocess.Popen(
        [sys.executable, "-m", "flask", "--app", "microblog_api", *args],
        cwd=ROOT,
        env={**os.environ, "DATABASE_URL": url, "SECRET_KEY": KEY},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def run(*args, url):
    process = start(*args, url=url)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    return output


@pytest.fixture(params=DATABASES)
def target_kind(request):
    return request.param


@pytest.mark.slow
def test_a_move_that_is_killed_ten_times_ends_as_one_that_is_not(tmp_path, target_kind):
    with (
        tutorial_at("sqlite", tmp_path) as source,
        new_database(target_kind, tmp_path / "one") as one,
        new_database(target_kind, tmp_path / "other") as other,
    ):
        source.fill()
        source.add_users(25_000, logged_in=500)
        numbers = " UNION ALL ".join(f"SELECT {number}" for number in range(2))
        source.run(
            "INSERT INTO post (body, user_id, timestamp)"
            f" SELECT 'a post', id, last_seen FROM user, ({numbers})"
        )
        run("move-in", source.url, "--copy", url=one)
        total = stored_at(one)
        for tenth in range(1, 11):
            process = start("move-in", source.url, "--copy", url=other)
            # The last one while what was copied is verified.
            wanted = total * random.uniform(tenth - 1, tenth) / 10 if tenth < 10 else total
            while process.poll() is None and stored_at(other) < wanted:
                time.sleep(0.005)
            process.kill()
            process.stdout.close()
            assert process.wait() == -signal.SIGKILL
        run("move-in", source.url, "--copy", url=other)
        results = [rows_at(url) for url in (one, other)]
    assert results[0] == results[1]
    assert len(results[0]["user"]) == 25_003


def stored_at(url):
    """Return the number of users and posts of a database of ours."""
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    with engine.connect() as connection:
        return sum(
            connection.scalar(sa.select(sa.func.count()).select_from(table))
            for table in db.metadata.sorted_tables
            if table.name in {"user", "post"}
        )


class Clients:
    """Clients of the tutorial: the only thing that they are told is another address.

    Attributes:
        refused: what happened to requests with a token that was live.
        tokens: by user name, those that were not ended.
    """

    def __init__(self, tokens):
        self.url, self.refused, self.answered = None, [], 0
        self.tokens = {f"user{id}": token for id, token in tokens.items()}
        self._done = threading.Event()
        self._pause = threading.Lock()
        names = sorted(self.tokens)
        parts = [names[number::4] for number in range(4)]
        self._threads = [threading.Thread(target=self._run, args=(part,)) for part in parts]

    @contextmanager
    def running(self, server):
        self.server = server
        for thread in self._threads:
            thread.start()
        try:
            yield
        finally:
            self._done.set()
            for thread in self._threads:
                thread.join()

    def move_to(self, server):
        self.server = server

    @contextmanager
    def paused(self):
        """Send nothing during the block."""
        with self._pause:
            yield

    def _run(self, names):
        while not self._done.is_set():
            name = random.choice(names)
            with self._pause, suppress(ConnectionError):
                self._ask(name)

    def _ask(self, name):
        token = self.tokens[name]
        answer = self.server.request("GET", "/api/users/1", headers=bearer(token))
        self.answered += 1
        if answer.status != 200:
            self.refused.append((name, token, answer.status, answer.text))
        if random.random() < 0.05:  # out, and in again
            gone = self.server.request("DELETE", "/api/tokens", headers=bearer(token))
            made = self.server.request("POST", "/api/tokens", headers=basic(name, "cat"))
            if (gone.status, made.status) != (204, 200):
                self.refused.append((name, token, gone.status, made.status))
            self.tokens[name] = made.json["token"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", SOURCES)
def test_no_client_notices_a_move(tmp_path, target_kind, kind):
    settings = {"SECRET_KEY": KEY, **CHEAP, "LOGIN_LIMIT_PER_SOURCE": "100000 per hour"}
    with (
        tutorial_at(kind, tmp_path) as source,
        new_database(target_kind, tmp_path / "ours") as target,
    ):
        clients = Clients(source.add_users(1000, logged_in=300))
        options = ("--database", source.url, "--port", "0")
        with Server(ROOT, (sys.executable, "-m", "tests.tutorial", *options)) as former:
            with clients.running(former):
                output = run("move-in", source.url, "--copy", url=target)
                assert "user: 1,000 rows" in output
                with clients.paused():  # as the former server has to stop
                    former.stop()
                    run("move-in", source.url, "--copy", url=target)
                    new = Server(DATABASE_URL=target, **settings)
                    new.start()
                    clients.move_to(new)
                before = clients.answered
                time.sleep(2)
            assert clients.answered > before
            for name, token in clients.tokens.items():
                if new.request("GET", "/api/users/1", headers=bearer(token)).status != 200:
                    clients.refused.append((name, token))
            new.__exit__()
        assert clients.refused == []
