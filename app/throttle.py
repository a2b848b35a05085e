"""How many wrong passwords, from whom: what makes guessing slow.

Two budgets, each counted in a window that begins with its first wrong password:

- `LOGIN_LIMIT_PER_SOURCE`: 20 per 5 minutes from one address, or from one /64
  network of IPv6, which is what one customer is given;
- `LOGIN_LIMIT_PER_ACCOUNT`: 100 per hour for one account, whoever they come
  from; NIST SP 800-63B-4, 3.2.2 allows no more than 100 in a row.

A guesser who spends the second must not lock the owner out. So a source that
the account has logged in from is counted by itself: for this account it has
both budgets of its own, which nobody else can spend.

The counters are kept in this process, or in Redis when `REDIS_URL` is set.
"""

import hashlib
import ipaddress
import math
import time
from contextlib import suppress
from urllib.parse import urlsplit

import limits
import redis
from flask import Flask, current_app
from limits.strategies import FixedWindowRateLimiter

from app.counters import Counters

Budget = tuple[limits.RateLimitItem, tuple[str, ...]]  # how many, and who is counted


class TooManyFailuresError(Exception):
    """A budget is spent.

    Attributes:
        retry_after_seconds: until there is a new one; at least 1.
    """

    def __init__(self, retry_after_seconds: int) -> None:
        super().__init__(f"too many wrong passwords; {retry_after_seconds} s to wait")
        self.retry_after_seconds = retry_after_seconds


def init_app(app: Flask) -> None:
    app.extensions["throttle"] = Counters(app.config["REDIS_URL"])


def source_of(address: str | None) -> str:
    """Whom a client at `address` is counted as: an IPv4 address or an IPv6 network.

    Some proxies write the port behind the address. One that cannot be read, or
    none at all, is one source with all others of this kind.
    """
    ip = _ip(address or "")
    if ip is None:
        return "unknown"
    if isinstance(ip, ipaddress.IPv4Address):
        return str(ip)
    if ip.ipv4_mapped is not None:
        return str(ip.ipv4_mapped)
    return str(ipaddress.IPv6Network((int(ip), 64), strict=False))


def _ip(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    with suppress(ValueError):
        return ipaddress.ip_address(text)
    with suppress(ValueError):  # perhaps it has a port
        return ipaddress.ip_address(urlsplit(f"//{text}").hostname or "")
    return None


class Attempt:
    """A password that somebody gives for an account: refused, or charged if it is wrong.

    Args:
        account: the user's id, or the name that nobody has.
        source: of the request, as `source_of` gives it.
        is_known: whether the account has logged in from this source.
    """

    def __init__(self, account: int | str, source: str, *, is_known: bool) -> None:
        # A digest: the name may be a password that was typed into the wrong field.
        who = hashlib.sha256(f"{type(account).__name__} {account}".encode()).hexdigest()[:32]
        pair = (who, source)
        config = current_app.config
        self._budgets: list[Budget] = [
            (
                limits.parse(config["LOGIN_LIMIT_PER_SOURCE"]),
                ("source", *pair) if is_known else ("source", source),
            ),
            (
                limits.parse(config["LOGIN_LIMIT_PER_ACCOUNT"]),
                ("account", *pair) if is_known else ("account", who),
            ),
        ]
        self._counters: Counters = current_app.extensions["throttle"]
        self._charged: FixedWindowRateLimiter | None = None  # where

    def refuse_if_spent(self) -> None:
        """Refuses at next to no cost, before anything is waited for.

        Raises:
            TooManyFailuresError: a budget is spent.
        """
        seconds = self._counters.run(self._seconds_to_wait)
        if seconds:
            raise TooManyFailuresError(seconds)

    def charge(self) -> None:
        """Takes one from each budget; `give_back` is for the password that was right.

        Charging after the failure would let many be checked at once before the
        first of them counts.

        Raises:
            TooManyFailuresError: a budget is spent; nothing was taken.
        """
        if not self._counters.run(self._take):
            raise TooManyFailuresError(max(1, self._counters.run(self._seconds_to_wait)))

    def give_back(self) -> None:
        """After `charge`. Where Redis has fallen silent meanwhile, what was taken stays taken."""
        if self._charged is not None:
            with suppress(redis.RedisError):
                self._put_back(self._charged)

    def _seconds_to_wait(self, counter: FixedWindowRateLimiter) -> int:
        spent = [(item, who) for item, who in self._budgets if not counter.test(item, *who)]
        if not spent:
            return 0
        reset_time = max(counter.get_window_stats(item, *who).reset_time for item, who in spent)
        return max(1, math.ceil(reset_time - time.time()))

    def _take(self, counter: FixedWindowRateLimiter) -> bool:
        self._charged = counter
        within = [counter.hit(item, *who) for item, who in self._budgets]
        if not all(within):
            self._put_back(counter)
        return all(within)

    def _put_back(self, counter: FixedWindowRateLimiter) -> None:
        for item, who in self._budgets:
            # Not into the window after the one it was taken from.
            if counter.get_window_stats(item, *who).remaining < item.amount:
                counter.hit(item, *who, cost=-1)
