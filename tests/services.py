"""Servers of a test's own, which it may stop, kill and freeze: PostgreSQL, PgBouncer.

Each is a context manager: it listens on a free port of 127.0.0.1, and its files are in a
folder that is removed at the end.
"""

import configparser
import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import psycopg
import pytest

from tests.helpers import ROOT

PATH = os.pathsep.join(
    [
        os.environ["PATH"],
        "/usr/sbin",  # where Debian has its servers
        *map(str, sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)),
    ]
)
# The name of the role, of its database, and its password.
ROLE, ROLE_PASSWORD = "microblog", "not-of-a-user"


def program(name):
    """Return the path of a program; skip the test if it is not installed."""
    return shutil.which(name, path=PATH) or pytest.skip(f"{name} is not installed")


def free_port():
    """Return a port that stays free while its server is down.

    The system takes the ports of outgoing connections from 32768 on.
    """
    while True:
        port = random.randrange(20_000, 32_000)
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port


def children(pid):
    """Return the ids of all processes below this one."""
    with suppress(OSError):
        own = list(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))
        return own + [deeper for child in own for deeper in children(child)]
    return []


class Service:
    """A server program. What a subclass has to say: `command`, and more where it differs.

    Attributes:
        user: who runs it instead of root; `None` for whoever runs the tests.
        stop_signal: ends it in good order.
        port: where it listens.
        folder: where its files are; what it prints is in the file `output`.
        process: the `subprocess.Popen` of the running server.
    """

    user = None
    stop_signal = signal.SIGTERM

    def __init__(self):
        if os.geteuid() != 0:
            self.user = None
        self.port = free_port()
        self.folder = Path(tempfile.mkdtemp(prefix=f"{type(self).__name__.lower()}-"))
        self.process = None

    @property
    def address(self):
        return f"127.0.0.1:{self.port}"

    def __enter__(self):
        try:
            self.give_away(self.folder)
            self.create()
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        if self.process is not None:
            self.thaw()
            self.stop()
        # What the killed one has left may still write.
        shutil.rmtree(self.folder, ignore_errors=True)

    def create(self):
        """Write the files that the server needs, once."""

    def command(self):
        """Return the words of the command that runs the server in the foreground."""
        raise NotImplementedError

    def is_ready(self):
        """Return whether it serves."""
        with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1):
            return True
        return False

    def give_away(self, path):
        """Make a file belong to the account that runs the server; return its path."""
        if self.user:
            shutil.chown(path, self.user, self.user)
        return path

    def run(self, *command, **options):
        """Run a program as the account that runs the server."""
        with (self.folder / "output").open("a") as output:
            options = {"stdout": output, "stderr": output, **options}
            subprocess.run(command, cwd=self.folder, user=self.user, check=True, **options)

    def start(self, seconds=60):
        """Start the server, and wait until it serves.

        After `kill` a first attempt may fail: what the killed one has left still ends.
        """
        give_up = time.monotonic() + seconds
        self.process = None
        while not (self.process and self.is_ready()):
            if self.process is None or self.process.poll() is not None:
                with (self.folder / "output").open("a") as output:
                    self.process = subprocess.Popen(
                        self.command(),
                        cwd=self.folder,
                        user=self.user,
                        stdout=output,
                        stderr=output,
                        start_new_session=True,
                    )
            assert time.monotonic() < give_up, self.output()
            time.sleep(0.05)

    def stop(self, how=None):
        """Stop the server with a signal, `stop_signal` by default, and wait for its end."""
        self.process.send_signal(how or self.stop_signal)
        self.process.wait(timeout=60)

    def kill(self):
        """End the server as a crash does; its children are left to themselves."""
        self.stop(signal.SIGKILL)

    def freeze(self):
        """Let the server answer nothing, while its connections stay open."""
        self._signal_all(signal.SIGSTOP)

    def thaw(self):
        self._signal_all(signal.SIGCONT)

    def _signal_all(self, which):
        for pid in [self.process.pid, *children(self.process.pid)]:
            with suppress(ProcessLookupError):
                os.kill(pid, which)

    def output(self):
        """Return what the server has printed so far."""
        return (self.folder / "output").read_text()


class PostgreSQL(Service):
    """A PostgreSQL server, with the role and database `microblog`.

    Args:
        primary: another `PostgreSQL`, of which this one is to be a standby.
        settings: of postgresql.conf.

    Attributes:
        url: of the database, with a password, as `DATABASE_URL` takes it.
        settings: may be changed before another `start`.
    """

    user = "postgres"
    stop_signal = signal.SIGINT  # "fast": ends connections; SIGQUIT is "immediate"

    def __init__(self, primary=None, **settings):
        self.program = program("postgres")
        super().__init__()
        self.primary = primary
        self.settings = {"unix_socket_directories": "", **settings}
        self.url = f"postgresql://{ROLE}:{ROLE_PASSWORD}@{self.address}/{ROLE}"

    def create(self):
        data = self.folder / "data"
        if self.primary is not None:
            source = f"postgresql://postgres@{self.primary.address}"
            self.run(program("pg_basebackup"), "-D", data, "-d", source, "-R", "-c", "fast")
            return
        self.run(program("initdb"), "-D", data, "-U", "postgres", "--no-sync", "-A", "trust")
        (data / "pg_hba.conf").write_text(
            "host all,replication postgres 127.0.0.1/32 trust\n"
            "host all all 127.0.0.1/32 scram-sha-256\n"
        )

    def command(self):
        command = [self.program, "-D", self.folder / "data", "-p", str(self.port)]
        return command + [f"--{name}={value}" for name, value in self.settings.items()]

    def is_ready(self):
        with suppress(psycopg.OperationalError):
            self.execute("SELECT 1", database="postgres")
            return True
        return False

    def start(self, seconds=60):
        super().start(seconds)
        found = "SELECT FROM pg_database WHERE datname = %s"
        if not self.execute(found, (ROLE,), database="postgres"):
            for statement in (
                f"CREATE ROLE {ROLE} LOGIN PASSWORD '{ROLE_PASSWORD}'",
                f"CREATE DATABASE {ROLE} OWNER {ROLE}",
            ):
                self.execute(statement, database="postgres")

    def execute(self, statement, parameters=None, database=ROLE):
        """Execute a statement as superuser; return its rows."""
        url = f"postgresql://postgres@{self.address}/{database}"
        with psycopg.connect(url, autocommit=True, connect_timeout=3) as connection:
            cursor = connection.execute(statement, parameters)
            return cursor.fetchall() if cursor.description is not None else []

    def end_connections(self, most=None):
        """End connections of the role, chosen at random; return how many."""
        found = "SELECT pid FROM pg_stat_activity WHERE usename = %s ORDER BY random() LIMIT %s"
        ended = f"SELECT count(*) FILTER (WHERE pg_terminate_backend(pid)) FROM ({found}) AS found"
        return self.execute(ended, (ROLE, most))[0][0]

    def promote(self):
        """Make a standby the primary."""
        self.execute("SELECT pg_promote()")


class PgBouncer(Service):
    """PgBouncer in front of a `PostgreSQL`, with deployment/pgbouncer/pgbouncer.ini.

    Args:
        settings: of the section `[pgbouncer]` that are to differ.

    Attributes:
        url: as that of `PostgreSQL`.
    """

    user = "postgres"
    stop_signal = signal.SIGQUIT  # at once; from 1.23 on SIGTERM waits for the clients

    def __init__(self, postgresql, **settings):
        self.program = program("pgbouncer")
        super().__init__()
        self.postgresql = postgresql
        self.settings = settings
        self.url = postgresql.url.replace(postgresql.address, self.address)

    def create(self):
        ini = configparser.RawConfigParser()
        ini.read(ROOT / "deployment" / "pgbouncer" / "pgbouncer.ini")
        database = ini["databases"][ROLE]
        assert "host=127.0.0.1 port=5432 " in database
        ini["databases"][ROLE] = database.replace("5432", str(self.postgresql.port))
        settings = {
            "listen_port": self.port,
            "auth_file": self.folder / "userlist.txt",
            "logfile": self.folder / "log",
            "pidfile": self.folder / "pid",
            "unix_socket_dir": "",
            **self.settings,
        }
        ini["pgbouncer"].update({name: str(value) for name, value in settings.items()})
        with (self.folder / "pgbouncer.ini").open("w") as file:
            ini.write(file)
        (self.folder / "userlist.txt").write_text(f'"{ROLE}" "{ROLE_PASSWORD}"\n')

    def command(self):
        return [self.program, self.folder / "pgbouncer.ini"]
