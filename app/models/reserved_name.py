"""User names that were given up: for a while, nobody but the former owner can take them.

Who knows a user by name would meet a stranger otherwise.
"""

from datetime import datetime, timedelta

import sqlalchemy as sa
import sqlalchemy.orm as so

from app.clock import utc_now
from app.extensions import Model, db, insert
from app.models.columns import UTCDateTime

RESERVED_FOR = timedelta(days=30)
# Of one user, the first: a thief who renames the user again and again frees no older name.
MOST_NAMES = 10
PRUNE_BATCH = 100  # rows


class ReservedName(Model):
    # In the form of the index of user names: `lower()`.
    username: so.Mapped[str] = so.mapped_column(sa.String(64), primary_key=True)
    user_id: so.Mapped[int] = so.mapped_column(
        sa.ForeignKey("user.id", ondelete="CASCADE"), index=True
    )
    until: so.Mapped[datetime] = so.mapped_column(UTCDateTime, index=True)

    @staticmethod
    def is_kept_from(user_id: int, username: str) -> bool:
        """Return whether a name that a user has just taken is reserved for another one.

        Call it after the name was written: the unique index of user names has let that
        wait for a transaction that gives the name up, and now its reservation is seen.
        """
        values = {"username": username, "user_id": user_id, "now": utc_now()}
        # Not through the session: it would look on a replica, or flush.
        return db.session.connection().scalar(_KEPT, values) is not None

    @staticmethod
    def replace(user_id: int, former: str, new: str) -> None:
        """Reserve the former name of a user, and end the reservation of the new one.

        Also deletes some that have expired: all of them in time.
        """
        now = utc_now()
        own = sa.delete(ReservedName).where(ReservedName.username == sa.func.lower(new))
        db.session.execute(own)
        row = insert(ReservedName).values(
            username=sa.func.lower(former), user_id=user_id, until=now + RESERVED_FOR
        )
        # There may be one of an earlier owner, which has expired.
        mine = {"user_id": row.excluded.user_id, "until": row.excluded.until}
        key = [ReservedName.username]
        db.session.execute(row.on_conflict_do_update(index_elements=key, set_=mine))
        beyond = (
            sa.select(ReservedName.username)
            .where(ReservedName.user_id == user_id)
            .order_by(ReservedName.until)
            .offset(MOST_NAMES)
            .limit(PRUNE_BATCH)
        )
        # Without those that another transaction deletes or replaces: no two wait for each other.
        expired = (
            sa.select(ReservedName.username)
            .where(ReservedName.until < now)
            .limit(PRUNE_BATCH)
            .with_for_update(skip_locked=True)
        )
        for names in (beyond, expired):
            found = db.session.scalars(names).all()
            if found:
                db.session.execute(sa.delete(ReservedName).where(ReservedName.username.in_(found)))


# Built once: building a statement costs more than running it.
_KEPT = sa.select(ReservedName.user_id).where(
    ReservedName.username == sa.func.lower(sa.bindparam("username", type_=sa.String)),
    ReservedName.user_id != sa.bindparam("user_id", type_=sa.BigInteger),
    ReservedName.until > sa.bindparam("now", type_=UTCDateTime),
)
