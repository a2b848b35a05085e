"""Where an account has logged in from: there, nobody else's wrong passwords lock it out."""

from datetime import datetime, timedelta

import sqlalchemy as sa
import sqlalchemy.orm as so

from app.columns import UTCDateTime, utc_now
from app.extensions import Model, db, insert

NOTED_EVERY = timedelta(days=1)
KNOWN_FOR = timedelta(days=30) + NOTED_EVERY


class KnownSource(Model):
    user_id: so.Mapped[int] = so.mapped_column(
        sa.ForeignKey("user.id", ondelete="CASCADE"), primary_key=True
    )
    # As `throttle.source_of` gives it.
    source: so.Mapped[str] = so.mapped_column(sa.String(64), primary_key=True)
    last_log_in: so.Mapped[datetime] = so.mapped_column(UTCDateTime)

    @staticmethod
    def find(user_id: int, source: str) -> "KnownSource | None":
        """The source, if the user has logged in from there within 30 days; else `None`."""
        values = {"user_id": user_id, "source": source, "since": utc_now() - KNOWN_FOR}
        return db.session.scalar(_FIND, values)

    @property
    def is_fresh(self) -> bool:
        """Whether it was noted within a day; noting every log in would be a write for each."""
        return self.last_log_in > utc_now() - NOTED_EVERY

    @staticmethod
    def note(user_id: int, source: str) -> None:
        """The user has logged in from there just now. Forgets sources that are known no longer."""
        now = utc_now()
        # First of all, so that two who do this at once do not wait for each other's rows.
        outdated = KnownSource.last_log_in < now - KNOWN_FOR
        db.session.execute(sa.delete(KnownSource).where(KnownSource.user_id == user_id, outdated))
        row = insert(KnownSource).values(user_id=user_id, source=source, last_log_in=now)
        key = [KnownSource.user_id, KnownSource.source]
        db.session.execute(row.on_conflict_do_update(index_elements=key, set_={"last_log_in": now}))

    @staticmethod
    def forget(user_id: int) -> None:
        """No source is known any more: who had the old password may have logged in from some."""
        db.session.execute(sa.delete(KnownSource).where(KnownSource.user_id == user_id))


_FIND = sa.select(KnownSource).where(
    KnownSource.user_id == sa.bindparam("user_id", type_=sa.BigInteger),
    KnownSource.source == sa.bindparam("source"),
    KnownSource.last_log_in > sa.bindparam("since", type_=UTCDateTime),
)
