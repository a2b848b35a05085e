"""Which changes are made: those of mutmut's operators, and a few that it does not have."""

import ast
import difflib
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import libcst as cst
import libcst.matchers as m
from libcst.metadata import MetadataWrapper, WhitespaceInclusivePositionProvider
from mutmut.mutation.mutators import mutation_operators

ROOT = Path(__file__).parent.parent

# What checks passwords and tokens.
SCOPE = [
    *sorted(path.relative_to(ROOT).as_posix() for path in ROOT.glob("app/security/*.py")),
    *sorted(path.relative_to(ROOT).as_posix() for path in ROOT.glob("app/auth/*.py")),
    *(
        f"app/models/{name}.py"
        for name in (
            *("access_token", "activation", "columns", "device_session", "known_source", "locks"),
            *("login", "lookup", "roles", "session", "stored_token", "user"),
        )
    ),
    *(f"app/api/{name}.py" for name in ("access_tokens", "sessions", "tokens")),
]


@dataclass(frozen=True)
class Change:
    """A change of one file.

    `removed` and `added` are the lines that differ, without indentation; `number` counts
    the changes of one function that look the same. `first` and `last` are the lines of the
    statement, counted from 1.
    """

    path: str
    function: str
    removed: str
    added: str
    number: int
    first: int
    last: int
    source: str  # of the changed file

    @property
    def lines(self) -> range:
        return range(self.first, self.last + 1)

    @property
    def key(self) -> str:
        number = f" ({self.number})" if self.number > 1 else ""
        return f"{self.path} {self.function}{number}\n- {self.removed}\n+ {self.added}".rstrip()


def changes_of(path: str) -> list[Change]:
    """Return all changes of a file, in the order of its lines."""
    text = (ROOT / path).read_text()
    wrapper = MetadataWrapper(cst.parse_module(text))
    finder = Finder(wrapper.module)
    wrapper.visit(finder)
    changes, seen = [], Counter[tuple[str, str, str]]()
    sources = {text}
    for found in finder.found:
        source = found.before + found.code + found.after
        if source in sources or not is_python(source):
            continue
        sources.add(source)
        removed, added = difference(found.old_lines, found.new_lines)
        if removed.startswith("description="):  # of the OpenAPI document
            continue
        seen[found.function, removed, added] += 1
        number = seen[found.function, removed, added]
        changes.append(
            Change(path, found.function, removed, added, number, found.first, found.last, source)
        )
    return changes


def together(text: str, changes: list[Change]) -> str:
    """Return a source with several changes, none of which overlap."""
    parts = []
    for change in changes:
        start = same_at_start(text, change.source)
        end = same_at_start(text[start:][::-1], change.source[start:][::-1])
        parts.append((start, len(text) - end, change.source[start : len(change.source) - end]))
    for start, end, code in sorted(parts, reverse=True):
        text = text[:start] + code + text[end:]
    return text


def same_at_start(one: str, other: str) -> int:
    """Return how many characters they have in common at the start."""
    pairs = zip(one, other, strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))


def is_python(source: str) -> bool:
    try:
        ast.parse(source)
    except SyntaxError:
        return False
    return True


def difference(before: str, after: str) -> tuple[str, str]:
    """Return the lines that differ."""
    old, new = ([line.strip() for line in text.splitlines()] for text in (before, after))
    lines = list(difflib.ndiff(old, new))
    removed, added = (
        " ".join(line[2:] for line in lines if line.startswith(sign)).strip()
        for sign in ("- ", "+ ")
    )
    return removed, added


class Found(NamedTuple):
    function: str
    first: int
    last: int
    before: str  # the source up to the change
    old: str
    code: str
    after: str

    @property
    def old_lines(self) -> str:
        return self._lines(self.old)

    @property
    def new_lines(self) -> str:
        return self._lines(self.code)

    def _lines(self, code: str) -> str:
        """Return code with the rest of its first and last line."""
        return self.before.rpartition("\n")[2] + code + self.after.partition("\n")[0]


# What is not changed: the schema, which a test compares with the migrations; what is for a type
# checker or a debugger; the texts of exceptions; what is remembered, and for how long.
NO_DECISION = (
    m.AnnAssign(annotation=m.Annotation(m.Subscript(m.Attribute(attr=m.Name("Mapped")))))
    | m.Expr(m.Call(func=m.Attribute(attr=m.Name("Index"))))
    | m.Call(func=m.Attribute(attr=m.Name("relationship")))
    | m.FunctionDef(name=m.Name("__table_args__") | m.Name("__repr__"))
    | m.Call(func=m.Name("cast"))
    | m.Assign(value=m.Call(func=m.Name("TypeVar")))
    | m.Assign(targets=[m.AssignTarget(m.Name("__all__"))])
    | m.Assign(targets=[m.AssignTarget(m.Name("cache_ok") | m.Name("inherit_cache"))])
    | m.Call(func=m.Name("TypeError") | m.Name("ValueError"))
    | m.Raise(m.Name("NotImplementedError"))
    | m.Call(func=m.Name("lru_cache"))
)
# Arguments that are guards, or decide how much is read at once. The tag of a blueprint is for the
# OpenAPI document.
NO_ARGUMENTS = {"strict", "frozen", "yield_per", "synchronize_session", "tag"}
# Without them a function does the same: those are called on their class; or does so slower.
NO_DECORATORS = m.Name("staticmethod") | m.Name("cache") | m.Call(func=m.Name("lru_cache"))
# Both are right in the very microsecond at which a time is reached.
TIME = re.compile(r"\b(now|utc_now\(\)|monotonic_now\(\))")


class Finder(cst.CSTVisitor):
    """Finds the changes of a module."""

    METADATA_DEPENDENCIES = (WhitespaceInclusivePositionProvider,)

    def __init__(self, module: cst.Module) -> None:
        super().__init__()
        self.module = module
        self.found: list[Found] = []
        self._code = module.code
        self._lines = self._code.splitlines(keepends=True)
        self._names: list[str] = []
        self._statements: list[cst.CSTNode] = []
        self._of_times: set[cst.CSTNode] = set()  # targets of comparisons

    def on_visit(self, node: cst.CSTNode) -> bool:
        if isinstance(node, cst.FunctionDef | cst.ClassDef):
            self._names.append(node.name.value)
        if isinstance(node, cst.SimpleStatementLine):
            self._statements.append(node)
        if isinstance(node, cst.Annotation) or m.matches(node, NO_DECISION):
            return False
        if isinstance(node, cst.Arg) and node.keyword and node.keyword.value in NO_ARGUMENTS:
            return False
        if isinstance(node, cst.Comparison) and TIME.search(self.module.code_for_node(node)):
            self._of_times.update(node.comparisons)
        if node in self._of_times:  # only what it is compared with
            return True
        for replaced, replacement in changes_at(node):
            self._record(replaced, replacement)
        return True

    def on_leave(self, original_node: cst.CSTNode) -> None:
        if isinstance(original_node, cst.FunctionDef | cst.ClassDef):
            self._names.pop()
        if isinstance(original_node, cst.SimpleStatementLine):
            self._statements.pop()

    def _record(self, node: cst.CSTNode, replacement: cst.CSTNode | None) -> None:
        lines, start, end = self._lines, *self._span(node)
        code = "" if replacement is None else self.module.code_for_node(replacement)
        before = "".join(lines[: start[0] - 1]) + lines[start[0] - 1][: start[1]]
        after = lines[end[0] - 1][end[1] :] + "".join(lines[end[0] :])
        first, last = start, end
        if self._statements:
            first, last = self._span(self._statements[-1])
        function = ".".join(self._names) or "module"
        old = self._code[len(before) : len(self._code) - len(after)]
        self.found.append(Found(function, first[0], last[0], before, old, code, after))

    def _span(self, node: cst.CSTNode) -> tuple[tuple[int, int], tuple[int, int]]:
        span = self.get_metadata(WhitespaceInclusivePositionProvider, node)
        return (span.start.line, span.start.column), (span.end.line, span.end.column)


def changes_at(node: cst.CSTNode) -> Iterator[tuple[cst.CSTNode, cst.CSTNode | None]]:
    """Yield (node, replacement); a replacement of `None` leaves it out."""
    if isinstance(node, cst.SimpleString) and is_prose(node):
        return
    for kind, operator in mutation_operators:
        # What begins lines would have to be indented anew.
        if isinstance(node, kind) and not isinstance(node, cst.BaseCompoundStatement):
            replacements = operator(node)
            if isinstance(node, cst.SimpleString):
                replacements = islice(replacements, 1)  # not in lower and upper case, too
            if isinstance(node, cst.Call):
                replacements = (new for new in replacements if not changes_guard(node, new))
            yield from ((node, replacement) for replacement in replacements)
    yield from ((node, replacement) for replacement in without_narrowing(node))
    yield from of_statements(node)


def changes_guard(call: cst.Call, changed: cst.CSTNode) -> bool:
    """Return whether one of NO_ARGUMENTS has another value, or is left out."""
    rest = changed.args if isinstance(changed, cst.Call) else call.args
    return any(
        arg.keyword is not None
        and arg.keyword.value in NO_ARGUMENTS
        and not any(arg.deep_equals(other) for other in rest)
        for arg in call.args
    )


def is_prose(string: cst.SimpleString) -> bool:
    """Return whether people read the text, and no program: it has blanks, and is no SQL."""
    return " " in string.raw_value and not re.search("[A-Z]{3}", string.raw_value)


# Methods of a statement that decide about its rows.
NARROWING = {"where", "with_for_update", "limit", "order_by"}


def without_narrowing(node: cst.CSTNode) -> Iterable[cst.CSTNode]:
    """`select(x).where(y)` to `select(x)`."""
    called = node.func if isinstance(node, cst.Call) else None
    if isinstance(called, cst.Attribute) and called.attr.value in NARROWING:
        yield called.value


# Callers ask only whether it is true, so that one is equivalent to the other.
FALSE = m.Name("None") | m.Name("False")


def of_statements(node: cst.CSTNode) -> Iterator[tuple[cst.CSTNode, cst.CSTNode | None]]:
    """Leave out calls and `raise`, return `None`, negate a condition, leave out a decorator."""
    if m.matches(node, m.Expr(value=m.Call()) | m.Raise()):
        yield node, cst.Pass()
    elif isinstance(node, cst.Return) and node.value and not m.matches(node.value, FALSE):
        yield node.value, cst.Name("None")
    elif isinstance(node, cst.If) and not m.matches(node.test, m.Name("TYPE_CHECKING")):
        condition = node.test.with_changes(lpar=[cst.LeftParen()], rpar=[cst.RightParen()])
        yield node.test, cst.UnaryOperation(cst.Not(), condition)
    elif isinstance(node, cst.FunctionDef):
        for decorator in node.decorators:
            if not m.matches(decorator.decorator, NO_DECORATORS):
                yield decorator, None
