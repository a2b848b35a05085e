"""The README, taken at its word in a copy of the project without a virtual environment."""

import os
import re
import shutil
import subprocess

import pytest
import sqlalchemy as sa

import config
from app import db
from tests.helpers import ROOT, Server, basic
from tests.sessions import assert_prints_what_it_says, blocks

README = (ROOT / "README.md").read_text()


@pytest.fixture
def fresh_copy(tmp_path):
    """What git holds of this tree, elsewhere, and an environment that knows nothing of here."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    files = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in files.split("\0"):
        if name and (ROOT / name).exists():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, tmp_path / name)
    environment = {name: value for name, value in os.environ.items() if name != "VIRTUAL_ENV"}
    here = os.environ.get("VIRTUAL_ENV", "no such folder")
    path = [part for part in os.environ["PATH"].split(":") if not part.startswith(here)]
    return tmp_path, environment | {"PATH": ":".join(path)}


@pytest.fixture
def boot(fresh_copy, monkeypatch):
    """Starts the copy's boot.sh as a new user does, but on a port that is free here."""
    directory, environment = fresh_copy
    monkeypatch.setattr(os, "environ", environment)
    return lambda: Server(directory)


def test_the_session_does_what_the_readme_prints(boot, fresh_copy):
    directory, environment = fresh_copy
    session = next(block for block in blocks(README, "sh") if block.startswith("API="))
    with boot() as server:
        assert (directory / ".venv" / "bin" / "python").exists()
        assert_prints_what_it_says(session, server.url, directory, environment)

        # The same copy goes on to build the resource that the README builds.
        for block in blocks(README, "python"):
            name = re.match(r"# (\S+)\n", block).group(1)
            (directory / name).write_text(block)
        models = directory / "app" / "models" / "__init__.py"
        line = "from app.models.page import Page\n"
        named = models.read_text().replace(line, "from app.models.note import Note\n" + line)
        models.write_text(named.replace('    "Page",\n', '    "Note",\n    "Page",\n'))
        routes = directory / "app" / "api" / "__init__.py"
        routes.write_text(routes.read_text().replace("following, posts", "following, notes, posts"))
        migrate = next(block for block in blocks(README, "sh") if "flask db migrate" in block)
        script = re.sub(r"\./boot\.sh.*\n", "flask db upgrade && flask db check\n", migrate)
        subprocess.run(["bash", "-e"], input=script, cwd=directory, text=True, check=True)
    with boot() as server:
        body = {"username": "bob", "email": "bob@example.com", "password": "correct horse"}
        assert server.request("POST", "/api/users", json_body=body).status == 201
        alice, bob = basic("alice"), basic("bob")
        note = server.request("POST", "/api/notes", json_body={"text": "Milk"}, headers=alice)
        assert (note.status, note.json) == (201, {"id": 1, "text": "Milk"})
        note = server.request("POST", "/api/notes", json_body={"text": ""}, headers=alice)
        assert (note.status, list(note.json["errors"])) == (400, ["text"])
        assert server.request("GET", "/api/notes", headers=alice).json == [
            {"id": 1, "text": "Milk"}
        ]
        assert server.request("GET", "/api/notes", headers=bob).json == []
        assert server.request("GET", "/api/notes").status == 401
        described = server.request("GET", "/openapi.json").json["paths"]["/api/notes"]
        assert described["get"]["tags"] == ["Notes"]
        assert "`write`" in described["post"]["description"]


def test_users_copied_from_elsewhere_are_counted_and_new_ids_begin_behind_them(
    app, client, register
):
    last = register("alice")
    new_ids, count = blocks(README, "sql")
    with app.app_context():
        for number in (1, 2):
            values = {"id": last + number, "name": f"copied{number}"}
            statement = 'INSERT INTO "user" (id, username, email) VALUES (:id, :name, :name)'
            db.session.execute(sa.text(statement), values)
        if db.engine.dialect.name == "postgresql":
            db.session.execute(sa.text(new_ids))
        db.session.execute(sa.text(count))
        db.session.commit()
    assert register("bob") == last + 3
    users = client.get("/api/users", headers=basic("bob")).json
    assert users["_meta"]["total_items"] == len(users["items"]) == 4


def test_the_table_of_settings_is_complete():
    rows = re.findall(r"^\| `([A-Z0-9_]+)` \| (?:`(.*?)`|.*?) \|", README, re.MULTILINE)
    defaults = dict(rows)
    code = (ROOT / "config.py").read_text()
    read = re.findall(r'(?:whole_number|words|env\.\w+)\(\s*"([A-Z0-9_]+)"', code)
    assert list(defaults) == read
    numbers = [name for name, default in defaults.items() if default.isdigit()]
    assert numbers
    for name in numbers:
        assert str(getattr(config.Config, name)) == defaults[name]


def test_the_example_file_names_every_setting_with_its_default():
    example = (ROOT / ".env.example").read_text()
    rows = re.findall(r"^\| `([A-Z0-9_]+)` \| (?:`(.*?)`|.*?) \|", README, re.MULTILINE)
    for name, default in rows:
        assert f"\n# {name}={default}\n" in example
