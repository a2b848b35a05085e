"""Sources from which a user has logged in; there the user has counters of their own."""

from datetime import datetime, timedelta

import sqlalchemy as sa
import sqlalchemy.orm as so

from app.clock import utc_now
from app.extensions import Model, db, insert, rows_changed
from app.models.columns import UTCDateTime

NOTED_EVERY = timedelta(days=1)  # each log in would cost a write
KNOWN_FOR = timedelta(days=30) + NOTED_EVERY


class KnownSource(Model):
    user_id: so.Mapped[int] = so.mapped_column(
        sa.ForeignKey("user.id", ondelete="CASCADE"), primary_key=True
    )
    # As `rate_limits.source_of` gives it.
    source: so.Mapped[str] = so.mapped_column(sa.String(64), primary_key=True)
    last_log_in: so.Mapped[datetime] = so.mapped_column(UTCDateTime)

    @staticmethod
    def find(user_id: int, source: str) -> "KnownSource | None":
        """Return the source if the user has logged in from there within 30 days, else `None`."""
        found = db.session.scalar(_FIND, {"user_id": user_id, "source": source})
        return found if found is not None and found.last_log_in > utc_now() - KNOWN_FOR else None

    @staticmethod
    def has_any(user_id: int) -> bool:
        """Return whether the user has any source, perhaps an expired one."""
        query = sa.select(KnownSource.source).where(KnownSource.user_id == user_id).limit(1)
        return db.session.scalar(query) is not None

    @staticmethod
    def note(user_id: int, source: str) -> bool:
        """Note that the user has just logged in from there; return whether the source is new.

        Sources that have expired are deleted, and count as new.
        """
        now = utc_now()
        # Delete before the upsert, so that two concurrent calls lock rows in the same order.
        outdated = KnownSource.last_log_in < now - KNOWN_FOR
        db.session.execute(sa.delete(KnownSource).where(KnownSource.user_id == user_id, outdated))
        row = insert(KnownSource).values(user_id=user_id, source=source, last_log_in=now)
        if rows_changed(row.on_conflict_do_nothing()):
            return True
        same = KnownSource.user_id == user_id, KnownSource.source == source
        db.session.execute(sa.update(KnownSource).where(*same).values(last_log_in=now))
        return False

    @staticmethod
    def forget(user_id: int) -> None:
        """Delete all sources of the user."""
        db.session.execute(sa.delete(KnownSource).where(KnownSource.user_id == user_id))


_FIND = sa.select(KnownSource).where(
    KnownSource.user_id == sa.bindparam("user_id", type_=sa.BigInteger),
    KnownSource.source == sa.bindparam("source"),
)
