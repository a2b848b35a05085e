"""Restarts two nodes one after another, behind nginx and behind HAProxy, under load.

    python -m benchmarks.rolling [5]     how many times each node is restarted

With the files in deployment/, on a PostgreSQL of its own. Prints how many answers had which
status, and each request that had none.
"""

import argparse
import http.client
import ssl
import tempfile
import threading
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit

from tests.helpers import PASSWORD, Server, basic, bearer, make_certificate, until
from tests.services import HAProxy, Nginx, PostgreSQL, free_port

READERS, WRITERS = 6, 6
PAUSE_SECONDS = 0.03  # of each client: the proxies limit the requests of one address
SETTLE_SECONDS = 6  # until the proxy uses a node again
SUCCESS = {200, 201}


class Clients:
    """Clients of a proxy, each with an address of its own; half of them keep a connection.

    Attributes:
        statuses: how many answers had this status.
        failures: what happened to each request that had none.
    """

    def __init__(self, proxy, token):
        self.statuses, self.failures = Counter(), []
        self._proxy, self._token = proxy, token
        self._context = ssl.create_default_context(cafile=str(proxy.certificate))
        self._context.check_hostname = False  # it is asked by its address
        self._done = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, args=(number,))
            for number in range(READERS + WRITERS)
        ]

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        time.sleep(1)
        return self

    def __exit__(self, *_):
        self._done.set()
        for thread in self._threads:
            thread.join()

    def _run(self, number):
        host = {"Host": "api.example.com"}
        connection = None
        while not self._done.wait(PAUSE_SECONDS):
            if connection is None:
                connection = http.client.HTTPSConnection(
                    self._proxy.address,
                    context=self._context,
                    timeout=30,
                    source_address=(f"127.0.0.{number + 2}", 0),
                )
            try:
                if number < READERS:
                    headers = host | bearer(self._token)
                    connection.request("GET", "/api/users/me", headers=headers)
                else:  # which no proxy may repeat
                    headers = host | basic("alice")
                    connection.request("POST", "/api/tokens", headers=headers)
                answer = connection.getresponse()
                answer.read()
                self.statuses[answer.status] += 1
                is_kept = number % 2 == 0
            except (OSError, http.client.HTTPException) as error:
                self.failures.append(repr(error))
                is_kept = False
            if not is_kept:
                connection.close()
                connection = None
        if connection is not None:
            connection.close()


def restart(proxy_class, times):
    """Return the clients of a proxy behind which each node was restarted so many times."""
    settings = {"SECRET_KEY": "the key of this measurement, and of nothing else"}
    settings |= {"TRUSTED_PROXIES": "1", "TRUSTED_HOSTS": "api.example.com", "DRAIN_SECONDS": "5"}
    settings |= {"ARGON2_MEMORY_KIB": "8", "ARGON2_TIME_COST": "1"}
    settings |= {"PASSWORD_HASH_CONCURRENCY": "8"}
    with ExitStack() as stack:
        postgresql = stack.enter_context(PostgreSQL())
        settings["DATABASE_URL"] = postgresql.url
        nodes = [stack.enter_context(Server(PORT=str(free_port()), **settings)) for _ in range(2)]
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        addresses = [urlsplit(node.url).netloc for node in nodes]
        proxy = stack.enter_context(proxy_class(addresses, *make_certificate(folder)))
        host = {"Host": "api.example.com"}
        body = {"username": "alice", "email": "alice@example.com", "password": PASSWORD}
        nodes[0].request("POST", "/api/users", headers=host, json_body=body)
        token = nodes[0].request("POST", "/api/tokens", headers=host | basic("alice")).json["token"]
        time.sleep(SETTLE_SECONDS)
        with Clients(proxy, token) as clients:
            for _ in range(times):
                for node in nodes:
                    node.stop()
                    node.process.stdout.close()
                    node.start()
                    until(lambda node=node: node.request("GET", "/readyz").status in SUCCESS)
                    time.sleep(SETTLE_SECONDS)
        return clients


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("times", type=int, nargs="?", default=5)
    times = parser.parse_args().times
    for proxy_class in (Nginx, HAProxy):
        clients = restart(proxy_class, times)
        failed = sum(count for status, count in clients.statuses.items() if status not in SUCCESS)
        print(
            f"{proxy_class.__name__}: {2 * times} restarts, {dict(clients.statuses)}, "
            f"{failed + len(clients.failures)} failed requests {clients.failures[:5]}"
        )


if __name__ == "__main__":
    main()
