"""The outbox: mails that are to be sent, as rows of the transactions that cause them.

So no mail is lost, and none tells of what was rolled back. Whoever sends claims a mail for
`CLAIM_SECONDS`, and deletes it when the mail server has taken it. A sender that dies leaves
a claim that ends by itself: each mail is sent at least once.
"""

import secrets
from datetime import datetime, timedelta
from typing import Any, Self

import sqlalchemy as sa
import sqlalchemy.orm as so

from app.clock import utc_now
from app.extensions import Model, db, rows_changed, use_database_time
from app.models.columns import BigId, UTCDateTime

CLAIM_SECONDS = 90  # a sender that goes on for longer extends its claim
RETRIED_FOR = timedelta(days=1)
FIRST_PAUSE_SECONDS = 10  # after the first failure; doubled by each further one
LONGEST_PAUSE_SECONDS = 3600
KEPT_FOR = timedelta(days=30)  # after it was given up
ERROR_LENGTH = 500  # characters


class OutgoingMail(Model):
    __table_args__ = ({"sqlite_autoincrement": True},)

    id: so.Mapped[int] = so.mapped_column(BigId, primary_key=True)
    kind: so.Mapped[str] = so.mapped_column(sa.String(32))  # of app/mail/messages.py
    # `None` where only the sender looks whether there is such a user.
    user_id: so.Mapped[int | None] = so.mapped_column(
        sa.ForeignKey("user.id", ondelete="CASCADE"), index=True
    )
    # `None` for the address that the user has when it is sent.
    recipient: so.Mapped[str | None] = so.mapped_column(sa.String(254))
    details: so.Mapped[dict[str, Any]] = so.mapped_column(sa.JSON)  # for the template
    # The left side of its Message-ID, the same for each attempt.
    message_id: so.Mapped[str] = so.mapped_column(
        sa.String(32), default=lambda: secrets.token_hex(16)
    )
    created: so.Mapped[datetime] = so.mapped_column(UTCDateTime, default=utc_now)
    # When it is tried next, or its claim ends; `None` once it is given up.
    due: so.Mapped[datetime | None] = so.mapped_column(UTCDateTime, default=utc_now, index=True)
    attempts: so.Mapped[int] = so.mapped_column(default=0)  # all refused, but for one under way
    error: so.Mapped[str | None] = so.mapped_column(sa.String(ERROR_LENGTH))  # of the last attempt

    # -- Sending -----------------------------------------------------------------------

    @classmethod
    def claim(cls) -> Self | None:
        """Return the mail that has been due for longest; `None` if none is. Commits.

        No other sender gets it for `CLAIM_SECONDS`.
        """
        use_database_time()
        now = utc_now()
        longest_due = sa.select(cls.id).where(cls.due <= now).order_by(cls.due).limit(1)
        # Asked first: on SQLite, the UPDATE would lock out other writers to change nothing.
        if db.session.scalar(longest_due) is None:
            db.session.rollback()
            return None
        free = longest_due.with_for_update(skip_locked=True).scalar_subquery()
        update = (
            sa.update(cls)
            .where(cls.id == free)
            .values(due=now + timedelta(seconds=CLAIM_SECONDS), attempts=cls.attempts + 1)
            .returning(cls.id)
        )
        id = db.session.scalar(update, execution_options={"synchronize_session": False})
        db.session.commit()
        # After the commit: a row that cannot be read holds up no other.
        return None if id is None else db.session.get(cls, id)

    def extend_claim(self) -> bool:
        """Claim it for `CLAIM_SECONDS` from now; `False` if the claim is lost. Commits."""
        is_ours = self._move(utc_now() + timedelta(seconds=CLAIM_SECONDS))
        db.session.commit()
        return is_ours

    def forget(self) -> None:
        """Delete it, as it was sent, or need not be. Commits."""
        db.session.execute(sa.delete(OutgoingMail).where(OutgoingMail.id == self.id))
        db.session.commit()

    def put_back(self, error: str, *, is_refused: bool) -> bool:
        """Note why it was not sent; return whether it is given up. Commits.

        It is given up where it is older than `RETRIED_FOR`.

        Args:
            error: for the operator.
            is_refused: whether the mail itself was refused: it waits for longer each time.
                Else it is due at once, and the attempt does not count.
        """
        now = utc_now()
        is_given_up = now >= self.created + RETRIED_FOR
        pause = self._pause if is_refused else timedelta(0)
        attempts = self.attempts if is_refused else self.attempts - 1
        text = error.replace("\0", "")[:ERROR_LENGTH]  # PostgreSQL stores no NUL
        is_ours = self._move(None if is_given_up else now + pause, attempts=attempts, error=text)
        if is_given_up:
            old = OutgoingMail.due.is_(None), OutgoingMail.created < now - RETRIED_FOR - KEPT_FOR
            db.session.execute(sa.delete(OutgoingMail).where(*old))
        db.session.commit()
        return is_given_up and is_ours

    def _move(self, due: datetime | None, **values: Any) -> bool:
        """Set `due` and other columns; `False` if another sender has claimed the mail."""
        own = OutgoingMail.id == self.id, OutgoingMail.due == self.due
        update = sa.update(OutgoingMail).where(*own).values(due=due, **values)
        if not rows_changed(update.execution_options(synchronize_session=False)):
            return False
        so.attributes.set_committed_value(self, "due", due)
        return True

    @property
    def _pause(self) -> timedelta:
        """How long to wait after the refusal: 10 s, 20 s, ... an hour."""
        seconds = FIRST_PAUSE_SECONDS * 2 ** min(self.attempts - 1, 20)
        return timedelta(seconds=min(seconds, LONGEST_PAUSE_SECONDS))

    @classmethod
    def seconds_to_wait(cls) -> float | None:
        """Return the seconds until a mail is due, at least 0; `None` if none is waiting."""
        due = db.session.scalar(
            sa.select(cls.due).where(cls.due.is_not(None)).order_by(cls.due).limit(1)
        )
        return None if due is None else max(0, (due - utc_now()).total_seconds())

    # -- For commands ------------------------------------------------------------------

    @classmethod
    def all(cls) -> list[Self]:
        """Return all mails by ascending id."""
        return list(db.session.scalars(sa.select(cls).order_by(cls.id)))

    @classmethod
    def retry_given_up(cls) -> int:
        """Make mails that were given up due now, for one more day; return how many.

        They count as created now.
        """
        use_database_time()
        now = utc_now()
        update = sa.update(cls).where(cls.due.is_(None))
        return rows_changed(update.values(due=now, created=now, attempts=0))
