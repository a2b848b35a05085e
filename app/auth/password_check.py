"""Check a password, as often as the limits allow.

Three limits count wrong passwords, each in a window that begins with the first:

- `LOGIN_LIMIT_PER_SOURCE`: from one source, an IPv4 address or an IPv6 /64 network;
- `LOGIN_LIMIT_PER_ACCOUNT`: for one account, from all sources; NIST SP 800-63B-4,
  3.2.2 allows at most 100 in a row;
- `LOGIN_LIMIT_PER_ADDRESS`: from one source for all accounts, known sources included.

An attacker who reaches the second must not lock the owner out. So an account has
the first two limits for itself at each source that it has logged in from.
"""

from functools import partial

from flask import current_app

from app.clock import utc_now
from app.extensions import db
from app.http import audit, logs
from app.http.audit import Event
from app.http.headers import SAFE_METHODS, request
from app.mail.messages import LOG_IN
from app.mail.outbox import put_notice
from app.models import KnownSource, OutdatedError, User
from app.models.known_source import NOTED_EVERY
from app.security import passwords
from app.security.rate_limits import Limit, LimitReachedError, charge_all, refund_all, source_of

COUNTS = "wrong passwords"


def try_password(user: User | None, readings: list[str], account: str = "") -> bool:
    """Try a password within the limits; return whether it is the user's.

    Commits: no connection is held while the password waits for its turn, and the
    source of a right password becomes a known one. Call it before you change anything.

    Args:
        user: `None` if there is no such user, which takes as long.
        readings: possible decodings of the password; charged as one attempt.
        account: the name that was given, to charge where there is no user.

    Raises:
        LimitReachedError: a limit is reached; nothing was checked.
    """
    user_id = None if user is None else user.id
    password_hash = None if user is None else user.password_hash
    source = source_of(request.remote_addr)
    known = KnownSource.find(user_id or 0, source)  # also without a user: it takes time
    db.session.commit()
    who = account if user is None else user.id
    limits = _limits(who, source, is_known=known is not None)
    try:
        for limit in limits:
            limit.test()  # costs next to nothing, before anything is waited for
        # Charged before the hash is computed: else many passwords could be checked
        # at once before the first of them counts.
        charge, refund = partial(charge_all, limits), partial(refund_all, limits)
        match = passwords.find_match(password_hash, readings, charge, refund)
    except LimitReachedError:
        audit.record(Event.LOG_IN_THROTTLED, user_id)
        raise
    may_renew = match is not None and request.method not in SAFE_METHODS
    renewed = match if may_renew and passwords.needs_rehash(password_hash) else None
    if user is not None and match is not None and _store(user, source, known, renewed):
        return True
    audit.record(Event.LOG_IN_FAILED, user_id)
    if known is not None:
        # Count and answer as for an unknown source, too: else a comparison with another
        # account would tell that this one has logged in from here.
        _limits(who, source, is_known=False)[0].charge()
    return False


def _store(user: User, source: str, known: KnownSource | None, renewed: str | None) -> bool:
    """Store what a right password changes; return whether it is still the user's.

    Args:
        user: whose password it is.
        source: of the request.
        known: the source, if the user has logged in from there.
        renewed: the password, if its hash has outdated parameters.
    """
    changed_at = user.password_changed_at
    try:
        if renewed is not None:
            user.renew_password_hash(renewed)
            db.session.commit()
    except OutdatedError:
        return False
    if known is None or known.last_log_in < utc_now() - NOTED_EVERY:
        if not User.lock_if_password(user.id, changed_at):
            db.session.rollback()
            return False
        is_first = not KnownSource.has_any(user.id)
        # Another request may have noted the source meanwhile.
        if KnownSource.note(user.id, source) and not is_first:
            put_notice(LOG_IN, user, logs.address(request.remote_addr))
        db.session.commit()
    return True


def _limits(who: int | str, source: str, *, is_known: bool) -> list[Limit]:
    """Return the limits that count this password."""
    of_source: list[int | str] = [source]
    of_account: list[int | str] = [who]
    if is_known:
        of_source = of_account = [who, source]
    rows = (
        ("log in per source", "LOGIN_LIMIT_PER_SOURCE", of_source),
        ("log in per account", "LOGIN_LIMIT_PER_ACCOUNT", of_account),
        ("log in per address", "LOGIN_LIMIT_PER_ADDRESS", [source]),
    )
    config = current_app.config
    return [Limit(name, config[rate], *key, counts=COUNTS) for name, rate, key in rows]
