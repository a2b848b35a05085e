"""What clients see while connections to the database are ended, and while it crashes.

    python -m benchmarks.faults terminate [200]     connections that are ended under load
    python -m benchmarks.faults restart [20]        crashes of PostgreSQL under load
    python -m benchmarks.faults pgbouncer [5000]    requests through PgBouncer, writes alone
    python -m benchmarks.faults pgbouncer-mixed [5000]    the same with reads
    python -m benchmarks.faults replica [2]         a replica that is frozen, paused and killed
    python -m benchmarks.faults killed [5]          primaries of Patroni that are killed
    python -m benchmarks.faults frozen [5]          the same, frozen, and thawed later
    python -m benchmarks.faults cut-off [5]         the same, cut off from the network
    python -m benchmarks.faults thawed              a revoked token at a primary that is thawed
    python -m benchmarks.faults redis-killed        log ins while Sentinel replaces a Redis
    python -m benchmarks.faults redis-frozen        the same, frozen
    python -m benchmarks.faults revocations [10000] revoked at one server, used at the other

Starts PostgreSQL, and two servers of the API on it, as two machines would be. Prints how
many answers had which status (400 is the answer to a name that is taken), how many requests had
no answer or one that is not JSON, how many acknowledged writes are lost, and how many
tracebacks are in the logs.
"""

import argparse
import itertools
import random
import signal
import threading
import time
from collections import Counter
from contextlib import ExitStack, contextmanager
from functools import partial

from tests.helpers import PASSWORD, Server, at_once, basic, bearer
from tests.services import Patroni, PgBouncer, PostgreSQL, Redis, Sentinel

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
OK, NO_CONTENT, UNAUTHORIZED, UNAVAILABLE = 200, 204, 401, 503


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
        self.troubles = []  # when each of these, a 503 or a missing answer came
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
            self.troubles.append(time.monotonic())
            return None
        self.statuses[answer.status] += 1
        if answer.status == UNAVAILABLE:
            self.troubles.append(time.monotonic())
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


class Sessions(Load):
    """Clients that register, log in and log out until the end of the block.

    Each uses one server and then the other: what one has acknowledged, the other must know.

    Attributes:
        lost: also log ins that were acknowledged, and are not known later.
        revived: tokens that were accepted after their log out had been acknowledged.
        acknowledged: how many registrations, log ins and log outs were.
    """

    def __init__(self, servers, postgresql, clients=READERS):
        super().__init__(servers, postgresql, readers=0, writers=clients)
        self.acknowledged, self.revived = Counter(), []
        self.seconds = []  # from each fault until the last request failed
        self._live, self._ended = [], []  # tokens, whose log in or log out was acknowledged

    def __exit__(self, *_):
        super().__exit__()
        for token, is_live in [(each, True) for each in self._live] + [
            (each, False) for each in self._ended
        ]:
            answer = self.servers[0].request("GET", "/api/users/me", headers=bearer(token))
            if is_live and answer.status != OK:
                self.lost.append(f"log in: {answer.status}")
            elif not is_live and answer.status != UNAUTHORIZED:
                self.revived.append(f"in the end: {answer.status}")

    def fill_pools(self):
        """Have each server open all of its connections, as more clients would."""
        at_once(
            80, lambda number: self._ask(number, "POST", "/api/tokens", headers=basic("client0"))
        )

    def _write(self, number):
        for turn in itertools.count(1):
            if self._done.is_set():
                return
            name = f"{self._names[number]}_{turn}"
            body = {"username": name, "email": f"{name}@example.com", "password": PASSWORD}
            if not self._is_done(self._ask(number, "POST", "/api/users", json_body=body)):
                continue
            self._users.add(name)
            self.acknowledged["registrations"] += 1
            made = self._ask(number, "POST", "/api/tokens", headers=basic(name))
            if not self._is_done(made):
                continue
            self.acknowledged["log ins"] += 1
            token = made.json["token"]
            self._ask(number + 1, "GET", "/api/users/me", headers=bearer(token))
            if turn % 2:
                self._live.append(token)
            elif self._is_done(self._ask(number, "DELETE", "/api/tokens", headers=bearer(token))):
                self.acknowledged["log outs"] += 1
                self._ended.append(token)
                self._check_ended(number, token)

    def _check_ended(self, number, token):
        """Use a token that has ended, and a few that have ended before, at both servers."""
        for each in [token, *random.sample(self._ended, min(2, len(self._ended)))]:
            for offset in (1, 0):
                answer = self._ask(
                    number + offset,
                    "GET",
                    "/api/users/me",
                    headers=bearer(each),
                    expected=UNAUTHORIZED,
                )
                if answer is not None and answer.status == OK:
                    self.revived.append(f"at server {offset}")

    def __str__(self):
        counts = ", ".join(f"{count} {what}" for what, count in sorted(self.acknowledged.items()))
        seconds = ", ".join(f"{each:.0f}" for each in self.seconds)
        return (
            f"{super().__str__()}; {counts} acknowledged, {len(self.revived)} tokens revived; "
            f"good again after {seconds} s"
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


def patroni(faults, rest=30):
    """Let the primary of three machines fail, once for each of `faults`; return the load.

    It comes back after `rest` seconds, and the load goes on until all three work.

    Args:
        faults: of "killed", "frozen" and "cut off".
        rest: seconds.
    """
    with Patroni() as cluster, servers_on(cluster.url) as servers:
        with Sessions(servers, cluster) as load:
            for fault in faults:
                time.sleep(3)
                load.fill_pools()
                node = cluster.primary
                do, undo = {
                    "killed": (node.kill, node.start),
                    "frozen": (node.freeze, node.thaw),
                    "cut off": (node.cut_off, node.connect),
                }[fault]
                began = time.monotonic()
                do()
                time.sleep(rest)
                load.seconds.append(max([began, *load.troubles]) - began)
                undo()
                cluster.wait_until_whole()
        return load


def thawed():
    """Ask a server that was idle meanwhile about a revoked token, as its primary is thawed.

    Returns:
        how many answers had which status.
    """
    statuses, done = Counter(), threading.Event()
    with Patroni() as cluster, servers_on(cluster.url) as (idle, busy):
        body = {"username": "client0", "email": "c@example.com", "password": PASSWORD}
        idle.request("POST", "/api/users", json_body=body)

        def log_in(_):
            return idle.request("POST", "/api/tokens", headers=basic("client0"))

        token = bearer(at_once(80, log_in)[0].json["token"])

        def use():
            while not done.is_set():
                answer = idle.request("GET", "/api/users/me", headers=token)
                statuses[answer.status] += 1

        old = cluster.primary
        old.freeze()
        while busy.request("DELETE", "/api/tokens", headers=token).status != NO_CONTENT:
            time.sleep(0.1)
        # Some are sent to the old primary before it goes on, and some afterwards.
        threads = [threading.Thread(target=use, daemon=True) for _ in range(8)]
        for thread in threads[:4]:
            thread.start()
        time.sleep(1)
        old.thaw()
        for thread in threads[4:]:
            thread.start()
        time.sleep(15)
        done.set()
        for thread in threads:
            thread.join()
    return statuses


def sentinel(fault, seconds=20):
    """Let a Redis with a replica and three sentinels be "killed" or "frozen" under log ins.

    Returns:
        how many log ins had which status meanwhile, and how many wrong passwords afterwards.
    """
    with ExitStack() as stack:
        primary = stack.enter_context(Redis())
        stack.enter_context(Redis(primary))
        time.sleep(2)  # until the replica has connected, which the sentinels must see
        sentinels = [stack.enter_context(Sentinel(primary)) for _ in range(3)]
        url = f"redis+sentinel://{','.join(each.address for each in sentinels)}/microblog"
        postgresql = stack.enter_context(PostgreSQL())
        settings = {"REDIS_URL": url, "TRUSTED_PROXIES": "1"}
        servers = stack.enter_context(servers_on(postgresql.url, **settings))
        body = {"username": "client0", "email": "c@example.com", "password": PASSWORD}
        servers[0].request("POST", "/api/users", json_body=body)
        done = threading.Event()

        def log_in(number, password=PASSWORD, source="198.51.100.7"):
            headers = basic("client0", password) | {"X-Forwarded-For": source}
            return servers[number % SERVERS].request("POST", "/api/tokens", headers=headers).status

        def log_in_until_done(number):
            statuses = Counter()
            while not done.is_set():
                statuses[log_in(number)] += 1
            return statuses

        def fail():
            time.sleep(3)
            (primary.kill if fault == "killed" else primary.freeze)()
            time.sleep(seconds)
            done.set()

        threading.Thread(target=fail, daemon=True).start()
        statuses = sum(at_once(4, log_in_until_done), Counter())
        # From an address of its own: a charge that could not be taken back stays.
        guess = partial(log_in, password="wrong password", source="203.0.113.9")
        return statuses, Counter(map(guess, range(30)))


def revocations(count, threads=8):
    """Log in, log out at one server, and use the token at the other, `count` times.

    Returns:
        how many answers of the other server had which status.
    """
    with PostgreSQL() as postgresql, servers_on(postgresql.url) as (one, other):

        def client(number):
            name, statuses = f"client{number}", Counter()
            body = {"username": name, "email": f"{name}@example.com", "password": PASSWORD}
            one.request("POST", "/api/users", json_body=body)
            for _ in range(count // threads):
                made = one.request("POST", "/api/tokens", headers=basic(name))
                token = bearer(made.json["token"])
                assert other.request("GET", "/api/users/me", headers=token).status == OK
                assert one.request("DELETE", "/api/tokens", headers=token).status == NO_CONTENT
                statuses[other.request("GET", "/api/users/me", headers=token).status] += 1
            return statuses

        return sum(at_once(threads, client), Counter())


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    faults = {
        "terminate": (terminate, 200),
        "restart": (restart, 20),
        "pgbouncer": (pgbouncer, 5000),
        "pgbouncer-mixed": (lambda count: pgbouncer(count, readers=READERS), 5000),
        "replica": (replica, 2),
        "killed": (lambda count: patroni(["killed"] * count), 5),
        "frozen": (lambda count: patroni(["frozen"] * count), 5),
        "cut-off": (lambda count: patroni(["cut off"] * count), 5),
        "thawed": (lambda _: thawed(), 1),
        "redis-killed": (lambda _: sentinel("killed")[0], 1),
        "redis-frozen": (lambda _: sentinel("frozen")[0], 1),
        "revocations": (revocations, 10_000),
    }
    parser.add_argument("fault", choices=faults)
    parser.add_argument("count", type=int, nargs="?")
    options = parser.parse_args()
    run, usual = faults[options.fault]
    count = options.count or usual
    load = run(count)
    if isinstance(load, Counter):
        answers = ", ".join(f"{number} x {status}" for status, number in sorted(load.items()))
        print(f"{options.fault} {count}: {answers}")
        return
    print(f"{options.fault} {count}: {load}")
    for problem in [*load.failed, *load.no_answer, *load.no_json, *load.lost][:10]:
        print(f"    {problem}")


if __name__ == "__main__":
    main()
