"""What clients see while connections to the database are ended, and while it crashes.

    python -m benchmarks.faults terminate [200]     connections that are ended under load
    python -m benchmarks.faults restart [20]        crashes of PostgreSQL under load
    python -m benchmarks.faults pgbouncer [5000]    requests through PgBouncer, writes alone
    python -m benchmarks.faults pgbouncer-mixed [5000]    the same with reads
    python -m benchmarks.faults replica [2]         a replica that is frozen, paused and killed

Starts PostgreSQL, and two servers of the API on it, as two machines would be. Prints how
many answers had which status (400 is the answer to a name that is taken), how many requests had
no answer or one that is not JSON, how many acknowledged writes are lost, and how many
tracebacks are in the logs.
"""

import argparse
import itertools
import signal
import threading
import time
from collections import Counter
from contextlib import ExitStack, contextmanager

from tests.helpers import PASSWORD, Server, basic, bearer
from tests.services import PgBouncer, PostgreSQL

SERVERS = 2
READERS, WRITERS = 6, 6  # threads of clients
SETTINGS = {
    "SECRET_KEY": "the key of this measurement, and of nothing else",
    # The cheapest hash: this is about the database.
    "ARGON2_MEMORY_KIB": "8",
    "ARGON2_TIME_COST": "1",
    "PASSWORD_HASH_CONCURRENCY": "8",
    "ACCESS_TOKENS_PER_USER": "1000",
    "REGISTRATION_LIMIT_PER_SOURCE": "1000000 per hour",
}
EXPECTED = {200, 201, 204}
UNAVAILABLE = 503


@contextmanager
def servers_on(url, **settings):
    """Start the servers on the database at `url`."""
    with ExitStack() as stack:
        settings = SETTINGS | {"DATABASE_URL": url} | settings
        yield [stack.enter_context(Server(**settings)) for _ in range(SERVERS)]


class Load:
    """Clients that read and write until the end of the block.

    Attributes:
        statuses: how many answers had this status.
        no_answer: what happened to each request that had none.
        no_json: the text of each answer that should be JSON and is not.
        lost: acknowledged writes that are not in the database, after the block.
    """

    def __init__(self, servers, postgresql, readers=READERS, writers=WRITERS):
        self.servers, self.postgresql = servers, postgresql
        self.statuses, self.no_answer, self.no_json, self.lost = Counter(), [], [], []
        self.failed = []  # that are neither expected nor 503
        self._done = threading.Event()
        self._users, self._texts = set(), {}  # that were acknowledged
        self._threads = [
            threading.Thread(target=run, args=(number,), daemon=True)
            for run, count in ((self._read, readers), (self._write, writers))
            for number in range(count)
        ]

    @property
    def requests(self):
        return self.statuses.total() + len(self.no_answer)

    def __enter__(self):
        # Each is a reader and a writer.
        self._names = [f"client{number}" for number in range(len(self._threads))]
        self._clients = [self._new_client(name) for name in self._names]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self._done.set()
        for thread in self._threads:
            thread.join()
        stored = dict(self.postgresql.execute('SELECT username, about_me FROM "user"'))
        self.lost = sorted(self._users - stored.keys())
        for name, text in self._texts.items():
            # A later one may be stored without having been acknowledged.
            if int(stored[name] or 0) < text:
                self.lost.append(f"{name}: {stored[name]} instead of {text}")

    def _new_client(self, name):
        server = self.servers[0]
        body = {"username": name, "email": f"{name}@example.com", "password": PASSWORD}
        user = server.request("POST", "/api/users", json_body=body)
        token = server.request("POST", "/api/tokens", headers=basic(name))
        return user.json["id"], bearer(token.json["token"])

    def _ask(self, number, method, path, *, expected=None, **options):
        """Send a request to one of the servers; return its answer, or `None`."""
        server = self.servers[number % len(self.servers)]
        try:
            answer = server.request(method, path, **options)
        except OSError as error:
            self.no_answer.append(f"{method} {path}: {error!r}")
            return None
        self.statuses[answer.status] += 1
        if answer.status == UNAVAILABLE:
            time.sleep(0.1)  # a client would wait longer, see Retry-After
        if answer.status not in ({expected} if expected else EXPECTED) | {UNAVAILABLE}:
            self.failed.append(f"{method} {path}: {answer.status} {answer.text}")
        try:
            assert not answer.text or answer.json is not None
        except ValueError:
            self.no_json.append(answer.text)
        return answer

    def _read(self, number):
        id, headers = self._clients[number]
        paths = ("/api/users/me", "/api/users?per_page=5", f"/api/users/{id}", "/api/tokens")
        for path in itertools.cycle(paths):
            if self._done.is_set():
                return
            self._ask(number, "GET", path, headers=headers)

    def _write(self, number):
        name = self._names[number]
        id, headers = self._clients[number]
        for turn in itertools.count(1):
            if self._done.is_set():
                return
            new = f"{name}_{turn}"
            body = {"username": new, "email": f"{new}@example.com", "password": PASSWORD}
            if self._is_done(self._ask(number, "POST", "/api/users", json_body=body)):
                self._users.add(new)
                # Refused after a SELECT, without a COMMIT.
                self._ask(number, "POST", "/api/users", json_body=body, expected=400)
            path = f"/api/users/{id}"
            body = {"about_me": str(turn)}
            if self._is_done(self._ask(number, "PUT", path, headers=headers, json_body=body)):
                self._texts[name] = turn
            body = {"name": new, "scope": "read"}
            made = self._ask(number, "POST", "/api/access-tokens", headers=headers, json_body=body)
            if self._is_done(made):
                path = f"/api/access-tokens/{made.json['id']}"
                self._ask(number, "DELETE", path, headers=headers)
            self._ask(number, "POST", "/api/tokens", headers=basic(name))

    def _is_done(self, answer):
        return answer is not None and answer.status in EXPECTED

    def __str__(self):
        tracebacks = sum(
            bool(line.get("traceback")) for server in self.servers for line in server.log()
        )
        statuses = ", ".join(f"{count} x {code}" for code, count in sorted(self.statuses.items()))
        return (
            f"{self.requests} requests: {statuses}; {len(self.no_answer)} without an answer, "
            f"{len(self.no_json)} not JSON, {len(self.lost)} writes lost, {tracebacks} tracebacks"
        )


def terminate(count):
    """End `count` connections of the servers, idle or not; return the load."""
    with PostgreSQL() as postgresql, servers_on(postgresql.url) as servers:
        with Load(servers, postgresql) as load:
            ended = 0
            while ended < count:
                time.sleep(0.1)
                ended += postgresql.end_connections(most=min(3, count - ended))
        return load


def restart(count):
    """Let PostgreSQL crash `count` times; return the load."""
    with PostgreSQL() as postgresql, servers_on(postgresql.url) as servers:
        with Load(servers, postgresql) as load:
            for number in range(count):
                time.sleep(0.5)
                if number % 2:
                    postgresql.kill()
                else:
                    postgresql.stop(signal.SIGQUIT)  # "immediate"
                time.sleep(0.2)
                postgresql.start()
        return load


def pgbouncer(requests, readers=0, **settings):
    """Send so many requests through PgBouncer; return the load."""
    # Fewer connections than threads of clients, so that each is lent to many.
    settings = {"default_pool_size": 4} | settings
    with (
        PostgreSQL() as postgresql,
        PgBouncer(postgresql, **settings) as pooler,
        servers_on(pooler.url) as servers,
    ):
        with Load(servers, postgresql, readers, writers=8) as load:
            while load.requests < requests:
                time.sleep(0.05)
        return load


def replica(count):
    """Freeze, pause and kill the replica `count` times each; return the load."""
    with (
        PostgreSQL() as primary,
        PostgreSQL(primary=primary) as standby,
        servers_on(primary.url, DATABASE_REPLICA_URL=standby.url) as servers,
    ):
        faults = [
            (standby.freeze, standby.thaw),
            (
                lambda: standby.execute("SELECT pg_wal_replay_pause()"),
                lambda: standby.execute("SELECT pg_wal_replay_resume()"),
            ),
            (standby.kill, standby.start),
        ]
        with Load(servers, primary) as load:
            for begin, end in faults * count:
                time.sleep(3)  # for which the replica is used
                begin()
                time.sleep(7)  # longer than it may lag
                end()
                time.sleep(5)  # until it is asked again
        return load


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    faults = {
        "terminate": (terminate, 200),
        "restart": (restart, 20),
        "pgbouncer": (pgbouncer, 5000),
        "pgbouncer-mixed": (lambda count: pgbouncer(count, readers=READERS), 5000),
        "replica": (replica, 2),
    }
    parser.add_argument("fault", choices=faults)
    parser.add_argument("count", type=int, nargs="?")
    options = parser.parse_args()
    run, usual = faults[options.fault]
    count = options.count or usual
    load = run(count)
    print(f"{options.fault} {count}: {load}")
    for problem in [*load.failed, *load.no_answer, *load.no_json, *load.lost][:10]:
        print(f"    {problem}")


if __name__ == "__main__":
    main()
