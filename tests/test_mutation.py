"""The tool of docs/mutation.md: what it changes, and how a running program gets the change."""

import importlib.util
import sys

import pytest

from mutation import changes
from mutation.swap import functions, swap

SOURCE = """
from functools import lru_cache, wraps

LIMIT = 10


def doubled(view):
    @wraps(view)
    def decorated(*args):
        return 2 * view(*args)
    return decorated


@doubled
def plain(number, step=1):
    return number + step


@lru_cache
def cached(number):
    return number + 1


def outer():
    def inner():
        return 1
    return inner


class Thing:
    size = 3

    @property
    def half(self):
        return self.size / 2

    @classmethod
    def twice(cls):
        return cls.size * 2


made_before = outer()
later = lambda: 5
"""


@pytest.fixture
def module(tmp_path):
    """SOURCE as a module."""
    path = tmp_path / "swapped.py"
    path.write_text(SOURCE)
    spec = importlib.util.spec_from_file_location("swapped", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules["swapped"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["swapped"]


@pytest.mark.parametrize(
    ("before", "after", "call", "result"),
    [
        ("number + step", "number - step", lambda module: module.plain(5), 8),
        ("2 * view", "3 * view", lambda module: module.plain(5), 18),
        ("number + 1", "number + 2", lambda module: module.cached(5), 7),
        ("return 1\n", "return 9\n", lambda module: module.made_before(), 9),
        ("self.size / 2", "self.size / 3", lambda module: module.Thing().half, 1),
        ("cls.size * 2", "cls.size * 3", lambda module: module.Thing.twice(), 9),
        ("lambda: 5", "lambda: 6", lambda module: module.later(), 6),
    ],
)
def test_functions_that_exist_get_their_changed_code(module, before, after, call, result):
    changed = SOURCE.replace(before, after)
    assert changed != SOURCE
    assert swap(module.__file__, SOURCE, changed, functions())
    assert call(module) == result
    assert module.plain.__wrapped__.__code__.co_filename == module.__file__


def test_what_a_changed_function_has_cached_is_forgotten(module):
    assert module.cached(1) == 2
    assert swap(module.__file__, SOURCE, SOURCE.replace("number + 1", "number + 2"), functions())
    assert module.cached(1) == 3


def test_several_changes_are_made_at_once():
    some = {}
    for change in changes.changes_of("app/models/login.py"):
        some.setdefault(change.function, change)
    del some["module"], some["HasLogin"]
    source = (changes.ROOT / "app/models/login.py").read_text()
    text = changes.together(source, list(some.values()))
    assert changes.is_python(text)
    removed, added = changes.difference(source, text)
    assert len(some) > 10
    assert all(change.added in added and change.removed in removed for change in some.values())


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("LIMIT = 10", "LIMIT = 11"),
        ("step=1", "step=2"),
        ("@doubled\n", ""),
        ("size = 3", "size = 4"),
        ("@lru_cache\n", ""),
    ],
)
def test_what_runs_at_the_import_is_not_swapped(module, before, after):
    assert not swap(module.__file__, SOURCE, SOURCE.replace(before, after), functions())


def test_a_change_that_no_function_gets_is_not_made(module):
    del module.outer, module.made_before
    assert not swap(
        module.__file__, SOURCE, SOURCE.replace("return 1\n", "return 9\n"), functions()
    )
    changed = SOURCE.replace("number + step", "number - step")
    assert not swap("another/file.py", SOURCE, changed, functions())


def test_changes_are_small_and_valid_and_named(tmp_path, monkeypatch):
    source = '''
def check(user, password):
    """Docstring."""
    if user.hash is None or not password:
        raise ValueError("what people read")
    note("used", user)
    return select(User).where(User.id == user.id)
'''
    (tmp_path / "module.py").write_text(source)
    monkeypatch.setattr(changes, "ROOT", tmp_path)
    found = changes.changes_of("module.py")
    pairs = {(change.removed, change.added) for change in found}
    assert {
        (
            "if user.hash is None or not password:",
            "if not (user.hash is None or not password):",
        ),
        (
            "if user.hash is None or not password:",
            "if user.hash is None and not password:",
        ),
        ('raise ValueError("what people read")', "pass"),
        ('note("used", user)', "pass"),
        ('note("used", user)', 'note("used", None)'),
        ("return select(User).where(User.id == user.id)", "return select(User)"),
        ("return select(User).where(User.id == user.id)", "return None"),
        (
            "return select(User).where(User.id == user.id)",
            "return select(User).where(User.id != user.id)",
        ),
    } <= pairs
    assert not any("people" in added for _, added in pairs)
    assert len({change.key for change in found}) == len(found)
    for change in found:
        compile(change.source, "module.py", "exec")
        assert (change.function, change.path) == ("check", "module.py")
        assert change.first in range(4, 8)
