"""Sessions of a shell in the documentation: lines to paste, and after `# ` what they print."""

import re
import subprocess

# What differs from one run to the next.
VARIES = [
    (re.compile(r"(mb[la]_)[0-9A-Za-z]{36}"), r"\1TOKEN"),
    (re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}\+00:00"), "TIME"),
    (re.compile(r'"(exp|iat)":\d+'), r'"\1":SECONDS'),
]


def blocks(text, language):
    """What stands between the fences of that language in a Markdown text."""
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def assert_prints_what_it_says(session, url, directory, environment=None):
    """Pastes the session into a shell, with the server at `url`."""
    lines = session.replace("http://127.0.0.1:5000", url).splitlines()
    said = [line.removeprefix("# ") for line in lines if line.startswith("# ")]
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
    assert shell.stderr == ""
    printed = shell.stdout.replace("\r", "").splitlines()
    assert list(map(_without_what_varies, printed)) == list(map(_without_what_varies, said))


def _without_what_varies(line):
    for pattern, name in VARIES:
        line = pattern.sub(name, line)
    # Of an hour, a few seconds may have gone.
    return re.sub(r'(?<="expires_in":)\d+', lambda found: str(round(int(found[0]), -2)), line)
