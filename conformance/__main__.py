"""The command; `python -m conformance --help`."""

import argparse
import json
import sys
from dataclasses import asdict
from itertools import groupby

from conformance import at_rest, contract, hostile, races, timing, tokens
from conformance.checks import ALL, FAILED, Check, Result, SkippedError
from conformance.client import Api, Connection, UnusableError
from conformance.run import Person, Run

# In the order in which they run.
MODULES = (contract, tokens, hostile, races, at_rest, timing)
KINDS = tuple(module.__name__.rpartition(".")[2] for module in MODULES)
CLAIM_WIDTH = 78
DONE, FOUND, UNUSABLE = 0, 1, 2


def main(arguments: list[str] | None = None) -> int:
    """Run the checks; return the exit status."""
    options = _parser().parse_args(arguments)
    try:
        people = _people(options.user)
        checks = _chosen(options.only)
        if options.database:
            _try_database(options.database)
        api = Api(options.url, options.prefix)
        announcement = sys.stderr if options.json else sys.stdout
        print(_announce(api, people), file=announcement, flush=True)
        with Connection(api) as connection:
            run = Run(connection, options.rounds, people, options.database)
            results = _run(checks, run, quiet=options.json)
    except UnusableError as error:
        print(f"conformance: {' '.join(str(error).split())}", file=sys.stderr)
        return UNUSABLE
    failed = sum(result.result == FAILED for result in results)
    if options.json:
        print(json.dumps({"url": api.url, "failed": failed, "results": list(map(asdict, results))}))
    else:
        print(f"\n{len(results)} checks, {failed} FAILED")
    return FOUND if failed else DONE


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m conformance",
        description="Check an API in the style of the Flask Mega-Tutorial, chapter 23.",
        epilog="Exit status: 0 nothing failed, 1 something did, 2 the API cannot be used.",
    )
    add = parser.add_argument
    add("url", metavar="URL", help="of the server, as http://127.0.0.1:5000")
    add("--prefix", default="/api", help="of all routes (default: /api)")
    add(
        "--user",
        nargs=2,
        action="append",
        default=[],
        metavar=("NAME", "PASSWORD"),
        help="a user for the checks; twice, where nobody can register",
    )
    add("--database", metavar="URL", help="look for tokens and passwords in it (reads only)")
    add("--only", metavar="KINDS", help=f"some of {','.join(KINDS)}")
    add("--rounds", type=_count, default=100, help="log ins of each kind to time (default: 100)")
    add("--json", action="store_true", help="print the results as JSON")
    return parser


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text} is no number above 0")
    return int(text)


def _people(users: list[list[str]]) -> list[Person]:
    if len(users) not in {0, 2}:
        raise UnusableError("--user is given twice, or not at all")
    return [Person(name, password) for name, password in users]


def _chosen(only: str | None) -> list[Check]:
    wanted = set(KINDS if only is None else only.split(","))
    if unknown := wanted - set(KINDS):
        raise UnusableError(
            f"--only: no {', '.join(sorted(unknown))}; there are {', '.join(KINDS)}"
        )
    return [each for kind in KINDS if kind in wanted for each in ALL if each.kind == kind]


def _try_database(url: str) -> None:
    try:
        next(at_rest.rows(url), None)
    except SkippedError:
        return  # the checks say so


def _announce(api: Api, people: list[Person]) -> str:
    if people:
        names = " and ".join(person.name for person in people)
        return f"Logs in as {names} at {api.url}, also with many wrong passwords."
    return f"Registers users at {api.url}, named conf...; they stay there."


def _run(checks: list[Check], run: Run, *, quiet: bool) -> list[Result]:
    results = []
    for kind, members in groupby(checks, key=lambda each: each.kind):
        if not quiet:
            print(f"\n{kind}")
        for each in members:
            result = each.result(run)
            results.append(result)
            if not quiet:
                claim = result.check.ljust(CLAIM_WIDTH)
                print(f"  {result.result:6}  {claim}  {result.detail}", flush=True)
    return results


if __name__ == "__main__":
    sys.exit(main())
