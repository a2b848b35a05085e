"""The sessions of a user: the shared log in, and those of devices."""

from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa

from app.clock import utc_now
from app.extensions import db
from app.models.device_session import DeviceSession
from app.models.locks import wait_for_writers
from app.models.login import ENDED
from app.models.user import User

SHARED_ID = 0  # those of devices have ids from 1


@dataclass(frozen=True)
class Session:
    """A live log in, whichever kind it is.

    Attributes:
        id: `SHARED_ID` for the shared one.
        device: its name; `None` for the shared one.
        created: when the first log in was; `None` if unknown.
        last_used: to the hour; `None` if unknown.
        address: of the last log in; `None` if unknown.
        user_agent: likewise.
        expires_at: aware.
    """

    id: int
    device: str | None
    created: datetime | None
    last_used: datetime | None
    address: str | None
    user_agent: str | None
    expires_at: datetime

    @property
    def seconds_left(self) -> int:
        """Seconds until expiry, rounded; at least 0."""
        return max(0, round((self.expires_at - utc_now()).total_seconds()))

    @staticmethod
    def all_of(user: User) -> list["Session"]:
        """Return the live ones: the shared one first, then by ascending id."""
        sessions = [
            Session(
                one.id,
                one.device,
                one.created,
                one.last_used,
                one.address,
                one.user_agent,
                one.token_expiration,
            )
            for one in DeviceSession.live_of(user.id)
        ]
        if user.token_expiration is not None and user.has_live_token:
            shared = Session(
                SHARED_ID,
                None,
                user.token_created or user.logged_in_at,
                user.token_last_used,
                user.token_address,
                user.token_user_agent,
                user.token_expiration,
            )
            sessions.insert(0, shared)
        return sessions

    @staticmethod
    def end(user: User, id: int) -> bool:
        """End one of the user's, without committing; return whether there is such a one."""
        if id == SHARED_ID:
            if user.has_live_token:
                user.revoke_token()
                return True
            return False
        session = DeviceSession.find_of(user.id, id)
        if session is None:
            return False
        session.revoke()
        return True

    @staticmethod
    def end_others(user: User, id: int | None) -> None:
        """End all of the user's but the one with this id, without committing."""
        DeviceSession.revoke_others(user.id, id)
        if id != SHARED_ID:
            user.revoke_token()

    @staticmethod
    def end_all(user: User, by: int) -> None:
        """End all of a user's, without committing, for the administrator with the id `by`."""
        wait_for_writers(user.id, by)
        update = sa.update(User).where(User.id == user.id)
        db.session.execute(update.values(ENDED))
        DeviceSession.revoke_all(user.id)
