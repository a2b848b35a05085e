"""Log ins of devices: each has a token of its own, beside the shared one of the user."""

from typing import TYPE_CHECKING

import sqlalchemy as sa
import sqlalchemy.orm as so

from app.clock import utc_now
from app.extensions import db, rows_changed
from app.models.locks import wait_for_writers
from app.models.login import renewed_expiration
from app.models.stored_token import StoredToken
from app.security import tokens

if TYPE_CHECKING:
    from datetime import timedelta

    from app.models.user import User


class DeviceSession(StoredToken):
    # As its owner calls it; several may have the same name.
    device: so.Mapped[str] = so.mapped_column(sa.String(64))
    # Of the client that has logged in.
    address: so.Mapped[str | None] = so.mapped_column(sa.String(64))
    user_agent: so.Mapped[str | None] = so.mapped_column(sa.String(256))

    @classmethod
    def _name(cls) -> so.InstrumentedAttribute[str]:
        return cls.device

    def __repr__(self) -> str:
        return f"<DeviceSession {self.device}>"

    @classmethod
    def start(cls, user: "User", device: str, expires_in: int, most: int) -> "DeviceSession":
        """Return a new session of the user, not committed; only this object has its `text`.

        Ends those that were unused for longest if there are more than `most` live ones.

        Args:
            user: who has logged in.
            device: its name.
            expires_in: lifetime in seconds.
            most: how many live ones the user may have.

        Raises:
            OutdatedError: the user was deactivated, or has a new password.
        """
        wait_for_writers(user.id)  # of sessions that end; and one at a time
        user.note_log_in()
        live = cls.live_of(user.id)
        unused_for_longest = sorted(live, key=lambda one: one.last_used or one.created)
        ended = [one.id for one in unused_for_longest[: max(0, len(live) - most + 1)]]
        if ended:
            db.session.execute(sa.delete(cls).where(cls.id.in_(ended)))
        cls._delete_long_expired(user.id)
        now = utc_now()
        return cls._make(
            tokens.DEVICE_PREFIX,
            now,
            expires_in,
            user_id=user.id,
            device=device,
            last_used=now,
        )

    def renew(self, expires_in: int, max_age: "timedelta") -> bool:
        """Extend the token; return whether it does, as `User.renew_token`."""
        row = type(self)
        expiration = renewed_expiration(self.created, self.token_expiration, expires_in, max_age)
        if expiration is None:
            return False
        update = sa.update(row).where(row.id == self.id).values(token_expiration=expiration)
        so.attributes.set_committed_value(self, "token_expiration", expiration)
        return rows_changed(update.execution_options(synchronize_session=False)) == 1

    @classmethod
    def revoke_others(cls, user_id: int, id: int | None) -> None:
        """Delete all sessions of the user but the one with this id."""
        wait_for_writers(user_id)
        cls._delete(cls.user_id == user_id, cls.id.is_distinct_from(id))
