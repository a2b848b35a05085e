"""Servers of a test's own, which it may stop, kill, freeze and cut off.

PostgreSQL, also as a cluster with Patroni, PgBouncer, Redis, proxies, and a mail relay.

Each is a context manager: it listens on a free port of 127.0.0.1, and its files are in a
folder that is removed at the end.
"""

import configparser
import os
import random
import re
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import urllib.request
from contextlib import ExitStack, suppress
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


def pairs(environment):
    """Return words as `env` takes them."""
    return [f"{name}={value}" for name, value in environment.items()]


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
    # From 1.23 on SIGTERM waits for the clients; SIGQUIT may be ignored, as in the background.
    stop_signal = signal.SIGKILL

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
        for name in ("pgbouncer.ini", "userlist.txt"):
            self.give_away(self.folder / name)  # whatever the umask is

    def command(self):
        return [self.program, self.folder / "pgbouncer.ini"]


class Network:
    """Machines of a test's own, which can be cut off: network namespaces on a bridge.

    Attributes:
        prefix: of the addresses, up to the last dot. This process is at `.1`.
    """

    def __init__(self):
        self.program = program("ip")
        self.name = f"mb{secrets.token_hex(3)}"
        self.prefix = f"198.18.{random.randrange(256)}."  # networks for tests, RFC 2544
        self.numbers = []

    def __enter__(self):
        try:
            self.ip("link", "add", self.name, "type", "bridge")
        except subprocess.CalledProcessError:
            pytest.skip("no permission to make network namespaces")
        self.ip("address", "add", f"{self.prefix}1/24", "dev", self.name)
        self.ip("link", "set", self.name, "up")
        return self

    def __exit__(self, *_):
        for number in self.numbers:
            self.signal(number, signal.SIGKILL)
            self.ip("netns", "delete", self.machine(number))
        self.ip("link", "delete", self.name)

    def ip(self, *words):
        command = [self.program, *words]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    def machine(self, number):
        return f"{self.name}-{number}"

    def on(self, number):
        """Return the words that run a command on a machine."""
        return self.program, "netns", "exec", self.machine(number)

    def add(self, number):
        """Add a machine, whose address ends in `number`."""
        machine, address = self.machine(number), f"{self.prefix}{number}"
        ethernet = f"02:00:00:00:00:{number:02x}"
        self.ip("netns", "add", machine)
        self.numbers.append(number)
        peer = ["peer", "name", "eth0", "netns", machine, "address", ethernet]
        self.ip("link", "add", machine, "type", "veth", *peer)
        self.ip("-n", machine, "address", "add", f"{address}/24", "dev", "eth0")
        for device in ("lo", "eth0"):
            self.ip("-n", machine, "link", "set", device, "up")
        self.ip("link", "set", machine, "up")
        self.connect(number)
        # Packets to a machine that is cut off are lost, as they are behind a router; without
        # this, the system would soon tell the sender that nobody has the address.
        known = ["lladdr", ethernet, "dev", self.name, "nud", "permanent"]
        self.ip("neighbour", "replace", address, *known)

    def connect(self, number):
        self.ip("link", "set", self.machine(number), "master", self.name)

    def cut_off(self, number):
        """Lose all packets from and to a machine, until `connect`."""
        self.ip("link", "set", self.machine(number), "nomaster")

    def pids(self, number):
        return list(map(int, self.ip("netns", "pids", self.machine(number)).split()))

    def signal(self, number, which):
        """Send a signal to all processes of a machine, and to those that they start meanwhile."""
        seen = set()
        while new := set(self.pids(number)) - seen:
            seen |= new
            for pid in new:
                with suppress(ProcessLookupError):
                    os.kill(pid, which)


class EtcdMember(Service):
    """The etcd of one machine of a `Network`, with deployment/patroni/etcd.env."""

    def __init__(self, network, number):
        self.program = program("etcd")
        super().__init__()
        self.network, self.number = network, number
        self.name = f"node{number - 10}"

    def command(self):
        lines = (ROOT / "deployment" / "patroni" / "etcd.env").read_text().splitlines()
        settings = dict(line.split("=", 1) for line in lines if not line.startswith("#"))
        others = settings.pop("ETCD_INITIAL_CLUSTER")
        # The file is that of the first machine.
        own = {
            name: value.replace("10.0.0.11", f"10.0.0.{self.number}")
            for name, value in settings.items()
        }
        own |= {"ETCD_INITIAL_CLUSTER": others, "ETCD_NAME": self.name}
        environment = {
            name: value.replace("10.0.0.", self.network.prefix) for name, value in own.items()
        }
        environment |= {"ETCD_DATA_DIR": f"{self.folder}/data", "ETCD_LOG_LEVEL": "warn"}
        return [*self.network.on(self.number), "env", *pairs(environment), self.program]

    def is_ready(self):
        """Return whether it runs; it serves once most of its cluster do."""
        return self.process.poll() is None


class PatroniNode(Service):
    """A machine with Patroni, PostgreSQL and etcd, with the files of deployment/patroni/.

    Args:
        etcd: the `EtcdMember` of the machine.
    """

    def __init__(self, etcd):
        self.program = program("patroni")
        super().__init__()
        self.network, self.number, self.etcd = etcd.network, etcd.number, etcd
        self.host = f"{self.network.prefix}{self.number}"

    @property
    def address(self):
        return f"{self.host}:5432"

    def create(self):
        shutil.chown(self.folder, "postgres", "postgres")
        text = (ROOT / "deployment" / "patroni" / "patroni.yml").read_text()
        for ours, theirs in (
            ("10.0.0.", self.network.prefix),
            ("/var/run/postgresql", str(self.folder)),
        ):
            assert ours in text
            text = text.replace(ours, theirs)
        (self.folder / "patroni.yml").write_text(text)

    def command(self):
        environment = {
            "PATRONI_NAME": self.etcd.name,
            "PATRONI_RESTAPI_CONNECT_ADDRESS": f"{self.host}:8008",
            "PATRONI_POSTGRESQL_CONNECT_ADDRESS": self.address,
            "PATRONI_POSTGRESQL_DATA_DIR": f"{self.folder}/data",
            "PATRONI_POSTGRESQL_BIN_DIR": str(Path(program("postgres")).resolve().parent),
            "PATRONI_POSTGRESQL_PGPASS": f"{self.folder}/pgpass",
        }
        return [
            *self.network.on(self.number),
            *("setpriv", "--reuid", "postgres", "--regid", "postgres", "--init-groups"),
            *("env", *pairs(environment), self.program, self.folder / "patroni.yml"),
        ]

    def start(self, seconds=60):
        if self.etcd.process.poll() is not None:
            self.etcd.start()
        super().start(seconds)

    def asks(self, path):
        """Return whether Patroni answers 200 at this path of its REST API."""
        url = f"http://{self.host}:8008{path}"
        with suppress(OSError), urllib.request.urlopen(url, timeout=1):
            return True
        return False

    def is_ready(self):
        return self.asks("/primary") or self.asks("/replica")

    def stop(self, how=None):
        """End the machine as a power cut does; Patroni is told with SIGTERM by nobody here."""
        self.network.signal(self.number, how or signal.SIGKILL)
        self.process.wait(timeout=60)
        self.etcd.process.wait(timeout=60)

    def _signal_all(self, which):
        self.network.signal(self.number, which)

    def cut_off(self):
        """Lose all packets from and to the machine."""
        self.network.cut_off(self.number)

    def connect(self):
        self.network.connect(self.number)


class Patroni:
    """Three machines with PostgreSQL, Patroni and etcd, of which one is the primary.

    Attributes:
        nodes: each a `PatroniNode`.
        url: of the database, with all hosts, as `DATABASE_URL` takes it.
    """

    def __init__(self):
        program("patroni"), program("etcd"), program("postgres"), program("ip")
        self._stack = ExitStack()

    def __enter__(self):
        with ExitStack() as stack:
            network = stack.enter_context(Network())
            members = [EtcdMember(network, number) for number in (11, 12, 13)]
            for member in members:
                network.add(member.number)
                stack.enter_context(member)
            self.nodes = [stack.enter_context(PatroniNode(member)) for member in members]
            self.hosts = ",".join(node.address for node in self.nodes)
            self.url = f"postgresql://{ROLE}:{ROLE_PASSWORD}@{self.hosts}/{ROLE}"
            self.wait_until_whole()
            for statement in (
                f"CREATE ROLE {ROLE} LOGIN PASSWORD '{ROLE_PASSWORD}'",
                f"CREATE DATABASE {ROLE} OWNER {ROLE}",
            ):
                self.execute(statement, database="postgres")
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_):
        self._stack.close()

    def execute(self, statement, parameters=None, database=ROLE):
        """Execute a statement as superuser on the primary; return its rows."""
        url = f"postgresql://postgres:change-me-1@{self.hosts}/{database}"
        options = {"target_session_attrs": "read-write", "connect_timeout": 3, "autocommit": True}
        with psycopg.connect(url, **options) as connection:
            cursor = connection.execute(statement, parameters)
            return cursor.fetchall() if cursor.description is not None else []

    @property
    def primary(self):
        return next(node for node in self.nodes if node.asks("/primary"))

    def wait_until_whole(self, seconds=120):
        """Wait until there are a primary, a synchronous standby, and another one."""
        give_up = time.monotonic() + seconds
        while not (
            sum(node.asks("/primary") for node in self.nodes) == 1
            and sum(node.asks("/sync") for node in self.nodes) == 1
            and sum(node.asks("/replica?lag=0") for node in self.nodes) == 2
        ):
            assert time.monotonic() < give_up, [node.output()[-2000:] for node in self.nodes]
            time.sleep(0.2)


class Redis(Service):
    """A Redis server.

    Args:
        primary: another `Redis`, of which this one is to be a replica.
    """

    def __init__(self, primary=None):
        self.program = program("redis-server")
        super().__init__()
        self.primary = primary

    def command(self):
        command = [self.program, "--port", str(self.port), "--bind", "127.0.0.1", "--save", ""]
        if self.primary is not None:
            command += ["--replicaof", "127.0.0.1", str(self.primary.port)]
        return command


class Sentinel(Service):
    """A Sentinel that watches a `Redis`, with deployment/redis/sentinel.conf."""

    def __init__(self, redis):
        self.program = program("redis-server")
        super().__init__()
        self.redis = redis

    def create(self):
        text = (ROOT / "deployment" / "redis" / "sentinel.conf").read_text()
        for ours, theirs in (
            ("10.0.0.11 6379", f"127.0.0.1 {self.redis.port}"),
            ("port 26379", f"port {self.port}\nbind 127.0.0.1"),
        ):
            assert ours in text
            text = text.replace(ours, theirs)
        (self.folder / "sentinel.conf").write_text(text)

    def command(self):
        return [self.program, self.folder / "sentinel.conf", "--sentinel"]


def changed(text, changes):
    """Return a configuration with other values; each of the former ones must be in it."""
    for former, new in changes.items():
        assert former in text, former
        text = text.replace(former, str(new))
    return text


class Nginx(Service):
    """nginx with deployment/nginx/microblog-api.conf, at https://127.0.0.1:`port`.

    Args:
        nodes: two addresses, as in "127.0.0.1:5000".
        certificate: path of the certificate, PEM.
        key: path of its key.
    """

    conf = ROOT / "deployment" / "nginx" / "microblog-api.conf"

    def __init__(self, nodes, certificate, key):
        self.program = program("nginx")
        super().__init__()
        self.nodes, self.certificate, self.key = nodes, certificate, key

    def create(self):
        site = changed(
            self.conf.read_text(),
            {
                "    listen [::]:443 ssl http2;\n": "",
                "443 ssl": f"{self.address} ssl",
                "node1:5000": self.nodes[0],
                "node2:5000": self.nodes[1],
                "/etc/ssl/api.example.com.pem": self.certificate,
                "/etc/ssl/api.example.com.key": self.key,
                "/var/log/nginx/access.log": self.folder / "access.log",
            },
        )
        names = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        paths = "\n".join(f"{name}_temp_path {self.folder}/{name};" for name in names)
        (self.folder / "nginx.conf").write_text(
            f"daemon off; pid {self.folder}/pid; error_log stderr;\n"
            + ("user root;\n" if os.getuid() == 0 else "")
            + f"events {{}}\nhttp {{\n{paths}\n{site}\n}}\n"
        )
        self.run(*self.command(), "-t")

    def command(self):
        return [self.program, "-c", self.folder / "nginx.conf", "-p", self.folder]

    def log(self):
        return (self.folder / "access.log").read_text()


class HAProxy(Service):
    """HAProxy with deployment/haproxy/haproxy.cfg, at https://127.0.0.1:`port`.

    Args:
        nodes, certificate, key: as those of `Nginx`.
    """

    conf = ROOT / "deployment" / "haproxy" / "haproxy.cfg"
    ready = "/readyz"

    def __init__(self, nodes, certificate, key):
        self.program = program("haproxy")
        super().__init__()
        self.nodes, self.certificate, self.key = nodes, certificate, key

    def create(self):
        pem = self.folder / "api.pem"
        pem.write_text(self.certificate.read_text() + self.key.read_text())
        changes = {
            "log /dev/log local0": "log stdout format raw daemon",
            "maxconn 16384": "maxconn 1000",  # more than this account may open, perhaps
            "/readyz ver": f"{self.ready} ver",
            "bind :443": f"bind {self.address}",
            "/etc/haproxy/api.example.com.pem": pem,
            " node1:5000": f" {self.nodes[0]}",
            " node2:5000": f" {self.nodes[1]}",
        }
        if os.geteuid() != 0:
            account = ("user haproxy", "group haproxy", "chroot /var/lib/haproxy")
            changes |= {f"    {line}\n": "" for line in account}
        text = changed(self.conf.read_text(), changes)
        (self.folder / "haproxy.cfg").write_text(text)
        self.run(*self.command(), "-c")

    def command(self):
        return [self.program, "-db", "-f", self.folder / "haproxy.cfg"]

    def log(self):
        return self.output()


class OpenSMTPD(Service):
    """OpenSMTPD with deployment/opensmtpd/smtpd.conf: passes mails on to a mail server.

    Its queue outlives `stop`, `kill` and another `start`. It offers no TLS, as that of Debian 12
    cannot: OpenSMTPD 6.8 with OpenSSL 3 fails in the handshake of each client.

    Args:
        provider: a `tests.smtp.SMTPServer` with STARTTLS and a user.
        authority: path of the certificates that it trusts, PEM; by default the provider's.
    """

    conf = ROOT / "deployment" / "opensmtpd" / "smtpd.conf"

    def __init__(self, provider, *, authority=None):
        self.program = program("smtpd")
        allowed = subprocess.run(["unshare", "--mount", "true"], check=False, capture_output=True)
        if allowed.returncode != 0:
            pytest.skip("no permission to make mount namespaces")
        super().__init__()
        self.provider, self.authority = provider, authority

    @property
    def environment(self):
        """The settings with which the application sends through it."""
        return {"MAIL_SERVER": "127.0.0.1", "MAIL_PORT": str(self.port)}

    def create(self):
        (self.folder / "spool").mkdir()
        (self.folder / "spool").chmod(0o711)
        secret = self.folder / "secrets"
        secret.write_text(f"provider {self.provider.username}:{self.provider.password}\n")
        secret.chmod(0o600)
        text = changed(
            self.conf.read_text(),
            {
                "127.0.0.1 port 25": f"127.0.0.1 port {self.port}",
                "smtp.example.com:587": self.provider.address,
                "/etc/smtpd.secrets": secret,
            },
        )
        (self.folder / "smtpd.conf").write_text(text)

    def command(self):
        """Run it with a spool, a socket and trusted certificates that nobody else sees."""
        mounts = """
            mount -t tmpfs none /var/spool
            mkdir /var/spool/smtpd
            mount --bind spool /var/spool/smtpd
            mount -t tmpfs none /run
            mount -t tmpfs none /etc/ssl/certs
            cp "$1" /etc/ssl/certs/ca-certificates.crt
            exec "$0" -d -f "$PWD/smtpd.conf"
        """
        authority = self.authority or self.provider.certificate
        return ["unshare", "--mount", "sh", "-ec", mounts, self.program, authority]

    def stop(self, how=None):
        below = children(self.process.pid)
        super().stop(how)
        for pid in below:  # after SIGKILL they would end a little later
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        while self.is_ready():
            time.sleep(0.01)

    def control(self, *words):
        """Return what `smtpctl` answers."""
        inside = ["nsenter", "--mount", "--target", str(self.process.pid), program("smtpctl")]
        return subprocess.check_output([*inside, *words], text=True)

    def queue(self):
        """Return the recipients of the mails that it keeps, whether it runs or not."""
        recipients = []
        for path in (self.folder / "spool" / "queue").glob(f"*/*/{'[0-9a-f]' * 16}"):
            with suppress(FileNotFoundError):  # passed on meanwhile
                recipients += re.findall(r"^rcpt: (.*)", path.read_text(), re.MULTILINE)
        return recipients

    def drain(self, seconds=30):
        """Pass the queue on until it is empty; after a failure it would wait for minutes."""
        give_up = time.monotonic() + seconds
        while self.queue():
            assert time.monotonic() < give_up, self.output()
            self.retry()
            time.sleep(0.2)

    def retry(self):
        """Try again now; what is under way already may still fail, and wait again."""
        for line in self.control("show", "routes").splitlines():
            self.control("resume", "route", line.split(".", 1)[0].strip())
        self.control("schedule", "all")
