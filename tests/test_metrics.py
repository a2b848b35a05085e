"""Metrics: what is counted, the page for Prometheus, and the files in deployment/."""

import json
import os
import re
import signal
import socket
import stat
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.error import URLError
from urllib.parse import urlencode
from urllib.request import urlopen

import argon2
import pytest
import sqlalchemy as sa
import time_machine
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

import metrics_server
from app import db
from app.http import asgi, metrics
from app.http.asgi import Bridge
from app.http.draining import Draining
from app.http.metrics import Metrics
from app.models import lookup
from app.security import passwords, tokens
from tests.conftest import CHEAP
from tests.helpers import PASSWORD, ROOT, Server, basic, bearer
from tests.services import free_port
from tests.test_asgi import ask, echo
from tests.test_docs import program, rows
from tests.test_server import boot, until

DASHBOARD = ROOT / "deployment" / "grafana" / "dashboard.json"
VARIABLES = {"$job": "api", "$instance": ".*", "$__rate_interval": "5s"}
PROMETHEUS = ROOT / "deployment" / "prometheus"
DURATION = "microblog_http_request_duration_seconds"


@pytest.fixture
def counted(monkeypatch):
    """Count in this process; return a function that returns the value of a sample so far."""
    registry = CollectorRegistry()
    monkeypatch.setattr(metrics, "current", Metrics(registry))

    def counted(name, **labels):
        metrics.current.catch_up()
        return registry.get_sample_value(f"microblog_{name}", labels) or 0

    return counted


# -- What is counted -------------------------------------------------------------------


def test_log_ins_and_revocations_are_counted_as_audit_events(client, alice, events, counted):
    token = client.post("/api/tokens", headers=basic("alice")).json["token"]
    client.post("/api/tokens", headers=basic("alice", "wrong one"))
    client.delete("/api/tokens", headers=bearer(token))
    for _ in range(20):
        client.post("/api/tokens", headers=basic("nobody"))
    assert {event["event"] for event in events()} == {
        "log_in",
        "log_in_failed",
        "log_in_throttled",
        "log_out",
    }
    for event in events():
        same = [each for each in events() if each["event"] == event["event"]]
        assert counted("audit_events_total", event=event["event"]) == len(same)
    assert counted("throttled_requests_total", limit="log in per source") == 1


def test_a_throttled_access_token_is_counted(client, alice, counted):
    body = {"name": "script", "scope": "read", "limit": "1 per minute"}
    made = client.post("/api/access-tokens", json=body, headers=basic("alice")).json
    for status in (200, 429):
        assert client.get("/api/users/me", headers=bearer(made["token"])).status_code == status
    assert counted("throttled_requests_total", limit="access token") == 1


def test_a_throttled_registration_is_counted_by_the_name_of_its_limit(app, client, counted):
    app.config["REGISTRATION_LIMIT_PER_SOURCE"] = "1 per hour"
    for name in ("alice", "bob"):
        body = {"username": name, "email": f"{name}@example.com", "password": PASSWORD}
        status = client.post("/api/users", json=body).status_code
    assert status == 429
    assert counted("throttled_requests_total", limit="registration per source") == 1


def test_tokens_are_counted_by_kind_and_outcome(client, token, counted):
    body = {"name": "x", "scope": "introspect", "expires_in": 60}
    access = client.post("/api/access-tokens", json=body, headers=bearer(token)).json["token"]
    login = tokens.make()
    mistyped = login[:-1] + ("0" if login[-1] != "0" else "1")
    for text in (token, login, mistyped, "0" * 32, "garbage"):  # the fourth may be the tutorial's
        client.get("/api/users/me", headers=bearer(text))
        form = {"token": text}
        client.post("/api/tokens/introspect", data=form, headers=bearer(access))
    client.get("/api/users/me", headers=basic(token, ""))
    with time_machine.travel(datetime.now(UTC) + timedelta(seconds=61)):
        client.get("/api/users/me", headers=bearer(access))
    counts = {
        (check, kind, outcome): counted(
            "token_checks_total", check=check, kind=kind, outcome=outcome
        )
        for check in ("request", "introspection")
        for kind in ("login", "access", "none")
        for outcome in ("valid", "expired", "unknown", "malformed")
    }
    assert {labels: count for labels, count in counts.items() if count} == {
        ("request", "login", "valid"): 3,  # and the one that made the access token
        ("request", "login", "unknown"): 2,
        ("request", "login", "malformed"): 1,
        ("request", "none", "malformed"): 1,
        ("request", "access", "valid"): 5,
        ("request", "access", "expired"): 1,
        ("introspection", "login", "valid"): 1,
        ("introspection", "login", "unknown"): 2,
        ("introspection", "login", "malformed"): 1,
        ("introspection", "none", "malformed"): 1,
    }


def test_a_database_that_does_not_answer_is_counted_by_the_class_of_its_error(
    client, token, counted, monkeypatch
):
    def fail(*_):
        raise sa.exc.TimeoutError

    monkeypatch.setattr(lookup, "select_once", fail)
    assert client.get("/api/users/me", headers=bearer(token)).status_code == 503
    assert counted("database_errors_total", error="TimeoutError") == 1


def test_what_waits_and_what_is_in_use_is_read(app, client, alice, counted, monkeypatch):
    monkeypatch.setattr(passwords, "WAIT_SECONDS", 0.5)
    release = threading.Event()
    verify = argon2.PasswordHasher.verify

    def slowly(*args):
        release.wait(20)
        return verify(*args)

    monkeypatch.setattr(argon2.PasswordHasher, "verify", slowly)

    def waiting():
        metrics.current.sample(app, requests_waiting=7)
        return counted("password_hashes_waiting")

    with ThreadPoolExecutor() as pool, app.app_context(), db.engine.connect():
        statuses = [
            pool.submit(lambda: app.test_client().get("/api/users", headers=basic("alice")))
            for _ in range(5)
        ]
        until(lambda: waiting() == 3)
        assert counted("password_hashes_running") == 2  # as many as the settings of the tests
        assert counted("http_requests_waiting") == 7
        assert counted("database_connections_in_use") == 1
        assert counted("database_connections_max") == db.engine.pool.size()
        until(lambda: waiting() == 0)
        release.set()
    assert sorted(each.result().status_code for each in statuses) == [200, 200, 503, 503, 503]
    assert counted("password_hashes_refused_total") == 3
    metrics.current.sample(app, requests_waiting=0)
    assert counted("password_hashes_running") == 0
    assert counted("database_connections_in_use") == 0


def test_what_the_bridge_refuses_is_counted(counted, monkeypatch):
    bridge = Bridge(echo, threads=1, largest_body=100, draining=Draining())
    ask(bridge, method="GET", headers=[(b"x", b"x" * 17_000)])
    ask(bridge, method="BREW")
    ask(bridge, method="GET", path=b"/" + b"x" * 9000)
    monkeypatch.setattr(asgi, "MOST_WAITING", 0)
    ask(bridge, method="POST")
    for method, status in [("GET", 431), ("other", 200), ("GET", 414), ("POST", 503)]:
        labels = {"method": method, "route": "none", "status": str(status)}
        assert counted("http_request_duration_seconds_count", **labels) == 1, labels


# -- The page --------------------------------------------------------------------------


class CountingServer(Server):
    """A server with metrics, on a new SQLite database."""

    def __init__(self, directory, **settings):
        self.metrics_port = free_port()
        super().__init__(
            DATABASE_URL=f"sqlite:///{directory}/app.db",
            SECRET_KEY="of the tests, long enough for no warning",
            METRICS_PORT=str(self.metrics_port),
            REDIS_URL="redis://127.0.0.1:1/0",
            **CHEAP,
            **settings,
        )

    def page(self):
        with urlopen(f"http://127.0.0.1:{self.metrics_port}/metrics", timeout=20) as answer:
            return answer.read().decode()

    def samples(self):
        """Return the value of each sample by its name and the values of its labels."""
        return {
            (sample.name, *sample.labels.values()): sample.value
            for family in text_string_to_metric_families(self.page())
            for sample in family.samples
        }

    def of_metrics(self):
        """Return the id of the process that answers Prometheus."""
        (found,) = [pid for pid in super().workers() if self.is_of_metrics(pid)] or [None]
        return found

    def workers(self):
        return [pid for pid in super().workers() if not self.is_of_metrics(pid)]

    @staticmethod
    def is_of_metrics(pid):
        with suppress(OSError):
            return b"metrics_server.py" in Path(f"/proc/{pid}/cmdline").read_bytes()
        return False

    def directory_of_files(self):
        arguments = Path(f"/proc/{self.of_metrics()}/cmdline").read_bytes().split(b"\0")
        return Path(arguments[3].decode())


@pytest.fixture
def counting(tmp_path):
    with CountingServer(tmp_path, WEB_CONCURRENCY="2") as server:
        until(lambda: server.samples().get(("microblog_processes",)) == 2)
        yield server


def ask_until_all_have_counted(server, path="/api/users"):
    """Send requests until each process has answered one; return how many were sent."""
    sent = 0
    files = server.directory_of_files().glob("histogram_*.db")
    before = {file: file.read_bytes() for file in files}

    def all_have():
        nonlocal sent
        assert server.request("GET", path).status == 401
        sent += 1
        files = list(server.directory_of_files().glob("histogram_*.db"))
        return len(files) >= 2 and all(file.read_bytes() != before.get(file) for file in files)

    until(all_have)
    return sent


def test_the_page_adds_up_all_processes_and_counts_never_go_back(counting):
    count = (f"{DURATION}_count", "GET", "/api/users", "401")
    sent = ask_until_all_have_counted(counting)
    until(lambda: counting.samples()[count] == sent)

    first, _ = counting.workers()
    os.kill(first, signal.SIGKILL)
    until(lambda: len(set(counting.workers()) - {first}) == 2)
    assert counting.samples()[count] == sent
    until(lambda: counting.samples()[("microblog_processes",)] == 2)
    sent += ask_until_all_have_counted(counting)

    before = set(counting.workers())
    counting.process.send_signal(signal.SIGHUP)

    def is_replaced():  # while requests come
        nonlocal sent
        assert counting.request("GET", "/api/users").status == 401
        sent += 1
        return len(counting.workers()) == 2 and not before & set(counting.workers())

    until(is_replaced)
    until(lambda: counting.samples()[("microblog_processes",)] == 2)
    until(lambda: counting.samples()[count] == sent)
    assert len(list(counting.directory_of_files().glob("histogram_*"))) <= 4


def test_routes_are_templates_and_unknown_paths_are_one(counting):
    paths = ("/api/users/1", "/api/users/2", "/nope", "/neither", "//api/users/1")
    for path in (*paths, "/api/users/1?token=x"):
        counting.request("GET", path)
    counting.request("BREW", "/api/users")
    counting.request("GET", "/api/users", headers={"X": "x" * 17_000})

    def counts():
        return {
            sample[1:]: value
            for sample, value in counting.samples().items()
            if sample[0] == f"{DURATION}_count"
        }

    until(lambda: sum(counts().values()) == 8)
    assert counts() == {
        ("GET", "/api/users/<int:id>", "401"): 2,
        ("GET", "/api/users/<int:id>", "400"): 1,
        ("GET", "none", "404"): 3,
        ("GET", "none", "431"): 1,
        ("other", "none", "405"): 1,
    }


def test_the_page_is_answered_again_after_its_process_has_died(counting):
    count = (f"{DURATION}_count", "GET", "none", "404")
    counting.request("GET", "/nope")
    until(lambda: counting.samples().get(count) == 1)
    before = counting.of_metrics()
    os.kill(before, signal.SIGKILL)
    assert counting.samples()[count] == 1
    assert counting.of_metrics() != before
    (line,) = [line for line in counting.log() if line.get("level") == "ERROR"]
    assert line["message"] == "the process that answers Prometheus has ended with status -9"


@pytest.mark.parametrize("how", ["terminate", "kill"])
def test_no_file_and_no_process_of_the_metrics_outlives_the_server(counting, how):
    directory, process = counting.directory_of_files(), counting.of_metrics()
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    os.kill(process, signal.SIGTERM)  # as an end of the whole group does; it stays for the others
    os.kill(process, signal.SIGINT)
    assert counting.page()
    assert counting.of_metrics() == process
    getattr(counting.process, how)()
    counting.process.wait()
    until(lambda: not directory.exists() and not Path(f"/proc/{process}").exists())


def test_files_of_a_server_that_was_killed_at_once_are_removed_by_the_next(counting, tmp_path):
    left = counting.directory_of_files()
    counting.crash()
    assert left.exists()
    with CountingServer(tmp_path) as other:
        assert not left.exists()
        metrics_server.remove_what_is_left(left.parent)
        assert other.directory_of_files().exists()


@pytest.mark.slow
def test_a_port_of_the_metrics_in_use_is_one_line_at_once(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        process = boot(DATABASE_URL=f"sqlite:///{tmp_path}/app.db", METRICS_PORT=port)
    text = f"METRICS_PORT: cannot listen on 127.0.0.1:{port}: Address already in use\n"
    assert (process.returncode, process.stderr, process.stdout) == (1, text, "")


@pytest.mark.slow
def test_the_page_is_at_no_other_address_than_the_one_that_is_set(tmp_path):
    with CountingServer(tmp_path, METRICS_HOST="::1") as server:
        with urlopen(f"http://[::1]:{server.metrics_port}/metrics", timeout=20) as answer:
            assert b"microblog_processes" in answer.read()
        with pytest.raises(URLError, match="refused"):
            server.page()


@pytest.mark.slow
def test_without_a_port_nothing_is_counted_and_the_library_is_not_imported(tmp_path):
    code = "import sys, server, microblog_api; print('prometheus_client' in sys.modules)"
    environment = {**os.environ, "DATABASE_URL": f"sqlite:///{tmp_path}/app.db"}
    command = [sys.executable, "-c", code]
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout == "False\n"
    assert metrics.current is None


# -- docs/metrics.md and deployment/ ---------------------------------------------------


def all_metrics():
    """Return name, type and labels of each metric."""
    registry = CollectorRegistry()
    Metrics(registry)
    for collector in registry._collector_to_names:  # noqa: SLF001  it has no other list
        (family,) = collector.describe() if hasattr(collector, "describe") else collector.collect()
        name = f"{family.name}_total" if family.type == "counter" else family.name
        yield name, family.type, list(collector._labelnames)  # noqa: SLF001  likewise


def test_the_table_of_metrics_is_complete():
    told = [
        [name.strip("|` "), type_, re.findall("`(.*?)`", labels)]
        for name, type_, labels, _ in rows("metrics.md", "metric")
    ]
    assert sorted(told) == sorted(map(list, all_metrics()))


def test_the_table_of_alerts_is_complete():
    told = [name.strip("|` ") for name, _ in rows("metrics.md", "alert")]
    assert told == re.findall(r"- alert: (\w+)", (PROMETHEUS / "alerts.yml").read_text())


def test_the_dashboard_and_the_alerts_name_only_metrics_that_exist():
    existing = set()
    for name, type_, _ in all_metrics():
        parts = ("_bucket", "_count", "_sum") if type_ == "histogram" else ("",)
        existing.update(name + part for part in parts)
    for file in (DASHBOARD, PROMETHEUS / "alerts.yml", PROMETHEUS / "alerts_test.yml"):
        named = set(re.findall(r"\bmicroblog_\w+", file.read_text()))
        assert named, file
        assert named <= existing, file


def expressions():
    """Return the queries of the dashboard, as Grafana would send them."""
    panels = json.loads(DASHBOARD.read_text())["panels"]
    for panel in panels:
        for target in panel["targets"]:
            query = target["expr"]
            for variable, value in VARIABLES.items():
                query = query.replace(variable, value)
            assert "$" not in query
            yield panel["title"], query


def test_no_panels_of_the_dashboard_overlap():
    panels = json.loads(DASHBOARD.read_text())["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    cells = [
        (x, y)
        for position in (panel["gridPos"] for panel in panels)
        for x in range(position["x"], position["x"] + position["w"])
        for y in range(position["y"], position["y"] + position["h"])
    ]
    assert len(set(cells)) == len(cells)
    assert {x for x, _ in cells} == set(range(24))


@pytest.mark.parametrize(
    "arguments",
    [
        ["check", "config", "prometheus.yml"],
        ["check", "rules", "alerts.yml"],
        ["test", "rules", "alerts_test.yml"],
    ],
)
def test_promtool_accepts(arguments):
    promtool(*arguments, cwd=PROMETHEUS)


def test_promtool_accepts_the_page_and_gets_it_while_another_client_sends_nothing(counting):
    counting.request("GET", "/nope")
    until(lambda: DURATION in counting.page())
    with socket.create_connection(("127.0.0.1", counting.metrics_port)):
        promtool("check", "metrics", input=counting.page())


def promtool(*arguments, **options):
    done = subprocess.run(
        [program("promtool"), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        **options,
    )
    assert done.returncode == 0, done.stdout
    assert "lint" not in done.stdout


def test_prometheus_reads_what_the_dashboard_shows(counting, tmp_path):
    text = (PROMETHEUS / "prometheus.yml").read_text()
    for theirs, here in [
        ("127.0.0.1:9464", f"127.0.0.1:{counting.metrics_port}"),
        ("scrape_interval: 15s", "scrape_interval: 1s"),
        ("  - alerts.yml", f"  - {PROMETHEUS}/alerts.yml"),
    ]:
        assert theirs in text
        text = text.replace(theirs, here)
    (tmp_path / "prometheus.yml").write_text(text)
    address = f"127.0.0.1:{free_port()}"
    command = [
        program("prometheus"),
        f"--config.file={tmp_path}/prometheus.yml",
        f"--storage.tsdb.path={tmp_path}/data",
        f"--web.listen-address={address}",
    ]

    def ask_prometheus(query):
        url = f"http://{address}/api/v1/query?{urlencode({'query': query})}"
        with urlopen(url, timeout=20) as answer:
            return [row["value"][1] for row in json.load(answer)["data"]["result"]]

    def is_read():
        counting.request("GET", "/api/users")
        counting.request("POST", "/api/tokens", headers=basic("nobody"))
        counting.request("GET", "/api/users", headers=bearer("garbage"))
        with suppress(OSError):
            return float((ask_prometheus(f"sum(rate({DURATION}_count[5s]))") or [0])[0])

    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        try:
            until(is_read)
            assert ask_prometheus('up{job="api"}') == ["1"]
            assert ask_prometheus("microblog_processes") == ["2"]
            shown = {title for title, query in expressions() if ask_prometheus(query)}
        finally:
            process.kill()
    # Of these there may have been nothing to count.
    assert {title for title, _ in expressions()} - shown <= {
        "Database errors",
        "Requests refused by a limit (429)",
    }
