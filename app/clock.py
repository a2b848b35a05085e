"""The one place that reads the time.

Several machines compare times that are in one database, so on PostgreSQL the time is that of
the database server: a machine whose clock is wrong would log everybody out, or revive
tokens. Between two readings of it, a steady clock counts, which nobody can set.
"""

import time
from datetime import UTC, datetime
from functools import partial

READ_EVERY_SECONDS = 10  # from the database
LONGEST_READING_SECONDS = 1

# Seconds since 1970, by the clock of this machine.
unix_now = time.time

# Seconds since any moment in the past, for pauses and windows: it cannot be set back.
monotonic_now = time.monotonic

# The same, and it goes on while the machine is suspended.
steady_now = (
    partial(time.clock_gettime, time.CLOCK_BOOTTIME)
    if hasattr(time, "CLOCK_BOOTTIME")
    else time.monotonic
)

_database_began: float | None = None  # the time of the database when `steady_now` was 0
_read_again_at = 0.0

# utc_now() is the time as an aware `datetime` in UTC. A partial, as every request reads the
# clock several times, and SQLite needs nothing else. `set_clock` changes what it calls.
utc_now = partial(datetime.now, UTC)


def _database_now() -> datetime:
    return datetime.fromtimestamp((_database_began or 0) + steady_now(), UTC)


def clock_is_outdated() -> bool:
    """Return whether it is time to read the clock of the database; true for one caller."""
    global _read_again_at  # noqa: PLW0603  a process has one clock
    now = steady_now()
    if now < _read_again_at:
        return False
    _read_again_at = now + READ_EVERY_SECONDS
    return True


def set_clock(database_time: datetime, asked_at: float) -> None:
    """Go on from the time that the database has given.

    An answer that was long on its way would set the clock back: it is ignored, unless it is
    the first one.

    Args:
        database_time: aware.
        asked_at: `steady_now()` before the database was asked.
    """
    global _database_began, _read_again_at  # noqa: PLW0603  likewise
    now = steady_now()
    _read_again_at = now + READ_EVERY_SECONDS
    if _database_began is not None and now - asked_at > LONGEST_READING_SECONDS:
        return
    _database_began = database_time.timestamp() - (asked_at + now) / 2
    utc_now.__setstate__((_database_now, (), {}, {}))  # type: ignore[attr-defined]  # not in typeshed


def seconds_ahead() -> float:
    """Return how far the clock of this machine is ahead of `utc_now`; negative if behind."""
    return unix_now() - utc_now().timestamp()
