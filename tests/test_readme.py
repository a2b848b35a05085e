"""The README, and the pages that it links to for a start, carried out word for word.

In a copy of the project without a virtual environment, as a new user has it.
"""

import ast
import os
import re
import subprocess

import pytest

import config
from tests.helpers import ROOT, Server, add_module_of_routes, basic
from tests.sessions import assert_prints_as_documented, blocks

README = (ROOT / "README.md").read_text()
BUILD_ON_IT = (ROOT / "docs" / "build-on-it.md").read_text()
SETTINGS = (ROOT / "docs" / "settings.md").read_text()


@pytest.fixture
def boot(fresh_copy, monkeypatch):
    """Return a function that starts boot.sh in the copy, on a free port."""
    directory, environment = fresh_copy
    monkeypatch.setattr(os, "environ", environment)
    return lambda: Server(directory)


def test_the_session_in_the_readme_and_the_resource_in_build_on_it_work(boot, fresh_copy):
    directory, environment = fresh_copy
    session = next(block for block in blocks(README, "sh") if block.startswith("API="))
    with boot() as server:
        assert (directory / ".venv" / "bin" / "python").exists()
        assert_prints_as_documented(session, server.url, directory, environment)

        # In the same copy, build the resource of docs/build-on-it.md.
        add_notes(directory)
        migrate = next(block for block in blocks(BUILD_ON_IT, "sh") if "flask db migrate" in block)
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
        changed = {"email": "robert@example.com"}
        assert server.request("PUT", "/api/users/2", json_body=changed, headers=bob).status == 200
        notes = server.request("GET", "/api/notes", headers=bob).json
        assert [note["text"] for note in notes] == ["Your e-mail address was changed."]
        described = server.request("GET", "/openapi.json").json["paths"]["/api/notes"]
        assert described["get"]["tags"] == ["Notes"]
        takes = {
            (method.upper(), "/api/notes"): security["Token"][0]
            for method, operation in described.items()
            for security in operation["security"]
            if "Token" in security
        }
        assert notes_in_tables() == (takes, takes)


def add_notes(directory):
    """Follow docs/build-on-it.md, up to the migration."""
    if (directory / "app" / "api" / "notes.py").exists():
        return  # this project already contains the notes
    for block in blocks(BUILD_ON_IT, "python"):
        name = re.match(r"# (\S+)\n", block)
        if name is not None:
            (directory / name[1]).write_text(block)
    models = directory / "app" / "models" / "__init__.py"
    line = next(
        block for block in blocks(BUILD_ON_IT, "python") if block.startswith("from app.models")
    )
    assert line.count("\n") == 1
    text = re.sub(r"^(?=from app\.models\.page )", line, models.read_text(), flags=re.MULTILINE)
    models.write_text(text.replace('    "OutdatedError",\n', '    "Note",\n    "OutdatedError",\n'))
    assert "add the line `notes,` twice: to the import" in BUILD_ON_IT
    add_module_of_routes(directory, "notes")
    notes = directory / "app" / "api" / "notes.py"
    (line,) = [
        block for block in blocks(BUILD_ON_IT, "python") if block.startswith("from app.api import")
    ]
    text = notes.read_text()
    notes.write_text(text.replace("from app.api.schemas", f"{line}from app.api.schemas", 1))


def notes_in_tables():
    """Return the rows that docs/build-on-it.md adds to tests/routes.py and docs/routes.md."""
    lines = next(block for block in blocks(BUILD_ON_IT, "python") if block.startswith("    ("))
    (rows,) = blocks(BUILD_ON_IT, "markdown")
    cells = re.findall(r"^\| `(\w+) (\S+)` \| `(\w+)` \|", rows, re.MULTILINE)
    return ast.literal_eval(f"{{{lines}}}"), {(row[0], row[1]): row[2] for row in cells}


def test_the_table_of_settings_is_complete():
    rows = re.findall(r"^\| `([A-Z0-9_]+)` \| (?:`(.*?)`|.*?) \|", SETTINGS, re.MULTILINE)
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
    rows = re.findall(r"^\| `([A-Z0-9_]+)` \| (?:`(.*?)`|.*?) \|", SETTINGS, re.MULTILINE)
    for name, default in rows:
        assert f"\n# {name}={default}\n" in example
