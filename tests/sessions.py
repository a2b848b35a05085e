"""Shell sessions in the documentation: commands and, after `# `, the output they print.

`...` inside an expected line stands for any text, so that a long answer may be
shortened. A line of `...` alone stands for itself: no line is left unchecked.
"""

import re
import subprocess
from itertools import zip_longest

ROLES = ("admin", "support")  # that the pages grant
# Text that differs between runs.
VARIES = [
    (re.compile(r"(mb[lad]_)[0-9A-Za-z]{36}"), r"\1TOKEN"),
    (re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}\+00:00"), "TIME"),
    (re.compile(r'"(exp|iat)":\d+'), r'"\1":SECONDS'),
]


def blocks(text, language):
    """The fenced code blocks of that language in a Markdown text."""
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def assert_prints_as_documented(session, url, directory, environment=None):
    """Run the session in a shell against the server at `url`; compare the output."""
    lines = session.replace("http://127.0.0.1:5000", url).splitlines()
    expected = [line.removeprefix("# ") for line in lines if line.startswith("# ")]
    shell = subprocess.run(
        ["bash"],
        input="\n".join(line for line in lines if not line.startswith("# ")) + "\n",
        cwd=directory,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    # Commands that change something write lines of the audit log, and nothing else.
    errors = [line for line in shell.stderr.splitlines() if not _is_of_a_command(line)]
    assert errors == []
    assert_same_lines(shell.stdout.replace("\r", "").splitlines(), expected)


def _is_of_a_command(line):
    return line.startswith('{"time": "') and line.endswith(
        tuple(
            f'"source": null, "request_id": null, "by": null, "role": "{name}"}}' for name in ROLES
        )
    )


def assert_same_lines(printed, expected):
    """Compares line by line; pytest shows only the lines that differ."""
    printed = [_mask_varying_text(line) for line in printed]
    expected = [_mask_varying_text(line) for line in expected]
    # A shortened line that matches is replaced by the line that was printed.
    pairs = list(zip_longest(expected, printed))[: len(expected)]
    assert printed == [whole if _matches(short, whole) else short for short, whole in pairs]


def _matches(short, whole):
    if whole is None or short.strip(" .") == "":
        return short == whole
    pattern = ".*".join(map(re.escape, short.split("...")))
    return re.fullmatch(pattern, whole) is not None


def _mask_varying_text(line):
    for pattern, name in VARIES:
        line = pattern.sub(name, line)
    # Rounded, as a few seconds may have passed.
    return re.sub(r'(?<="expires_in":)\d+', lambda found: str(round(int(found[0]), -2)), line)
