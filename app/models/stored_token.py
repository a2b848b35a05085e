"""What access tokens and the tokens of devices share: a row for each, with a digest."""

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Self, cast

import sqlalchemy as sa
import sqlalchemy.orm as so

from app.clock import utc_now
from app.extensions import Model, db, rows_changed, without_waiting
from app.models.columns import BigId, UTCDateTime
from app.models.locks import wait_for_writers
from app.security import tokens

if TYPE_CHECKING:
    from app.models.user import User

USE_NOTED_EVERY = timedelta(hours=1)  # else each request would cost a write
KEPT_AFTER_EXPIRY = timedelta(days=30)
PRUNE_BATCH = 1000  # rows
PRUNED_WITH_EACH = 10  # rows; few, so that whoever makes a token does not wait for them


class StoredToken(Model):
    __abstract__ = True

    @so.declared_attr.directive
    def __table_args__(cls) -> tuple[Any, ...]:  # noqa: N805  SQLAlchemy calls it with the class
        name: str = cls.__tablename__
        return (
            # What has expired must not slow down what asks for live tokens.
            sa.Index(f"ix_{name}_user_id", "user_id", "token_expiration"),
            # SQLite would give the id of a revoked token to the next one.
            {"sqlite_autoincrement": True},
        )

    id: so.Mapped[int] = so.mapped_column(BigId, primary_key=True)
    user_id: so.Mapped[int] = so.mapped_column(sa.ForeignKey("user.id", ondelete="CASCADE"))
    # `tokens.digest` of the text, which is not stored.
    digest: so.Mapped[bytes] = so.mapped_column(sa.LargeBinary(32), unique=True)
    token_expiration: so.Mapped[datetime] = so.mapped_column(UTCDateTime)
    created: so.Mapped[datetime] = so.mapped_column(UTCDateTime)
    # To the hour; `None` if never.
    last_used: so.Mapped[datetime | None] = so.mapped_column(UTCDateTime)

    @so.declared_attr
    def user(cls) -> so.Mapped["User"]:  # noqa: N805  SQLAlchemy calls it with the class
        return so.relationship(lazy="raise", viewonly=True)

    # The token itself, on a new object only; not a column.
    text = cast("str | None", None)

    @classmethod
    def _name(cls) -> so.InstrumentedAttribute[str]:
        """Return the column with the name that its owner has given."""
        raise NotImplementedError

    @classmethod
    def _make(cls, prefix: str, created: datetime, expires_in: int, **fields: Any) -> Self:
        """Return a new token, flushed, with its `text`.

        Args:
            prefix: of its text.
            created: now.
            expires_in: lifetime in seconds.
            fields: other columns.
        """
        text = tokens.make(prefix)
        expiration = created + timedelta(seconds=expires_in)
        token = cls(
            digest=tokens.digest(text), created=created, token_expiration=expiration, **fields
        )
        token.text = text
        db.session.add(token)
        db.session.flush()
        return token

    @classmethod
    def _delete_long_expired(cls, user_id: int) -> None:
        """Delete some of the user's tokens that expired long ago: all of them in time."""
        long_ago = cls.token_expiration < utc_now() - KEPT_AFTER_EXPIRY
        ids = sa.select(cls.id).where(cls.user_id == user_id, long_ago).limit(PRUNED_WITH_EACH)
        db.session.execute(sa.delete(cls).where(cls.id.in_(ids)))

    # -- Finding -----------------------------------------------------------------------

    @classmethod
    def _tokens(cls) -> tuple[sa.ColumnElement[bool], ...]:
        """Return what tells tokens from other rows of the table."""
        return ()

    @classmethod
    def _of(cls, user_id: int) -> tuple[sa.ColumnElement[bool], ...]:
        return cls.user_id == user_id, *cls._tokens()

    @classmethod
    def _live(cls, user_id: int) -> tuple[sa.ColumnElement[bool], ...]:
        return *cls._of(user_id), cls.token_expiration > utc_now()

    @classmethod
    def find_of(cls, user_id: int, id: int) -> Self | None:
        """Return the user's live token with this id, or `None`."""
        return db.session.scalar(sa.select(cls).where(cls.id == id, *cls._live(user_id)))

    @classmethod
    def live_of(cls, user_id: int) -> list[Self]:
        """Return the user's live tokens by ascending id."""
        query = sa.select(cls).where(*cls._live(user_id)).order_by(cls.id)
        return list(db.session.scalars(query))

    @classmethod
    def all_of(cls, user_id: int) -> list[Self]:
        """Return the user's tokens by ascending id, expired ones included."""
        query = sa.select(cls).where(*cls._of(user_id)).order_by(cls.id)
        return list(db.session.scalars(query))

    @classmethod
    def all_live(cls) -> Iterator[Self]:
        """Iterate over all live tokens with their `user`, read in portions."""
        query = (
            sa.select(cls)
            .options(so.joinedload(cls.user, innerjoin=True))
            .where(cls.token_expiration > utc_now(), *cls._tokens())
            .order_by(cls.id)
            .execution_options(yield_per=1000)
        )
        return iter(db.session.scalars(query))

    # -- Using -------------------------------------------------------------------------

    @property
    def seconds_left(self) -> int:
        """Seconds until expiry, rounded; at least 0."""
        return max(0, round((self.token_expiration - utc_now()).total_seconds()))

    @classmethod
    def note_use(cls, id: int) -> None:
        """Set `last_used` and commit. Fails at once where the row is locked."""
        note_use(sa.update(cls).where(cls.id == id).values(last_used=utc_now()))

    # -- Ending ------------------------------------------------------------------------

    def revoke(self) -> None:
        """Delete the token; no error if another request has just done so."""
        wait_for_writers(self.user_id)
        self._delete(type(self).id == self.id)

    @classmethod
    def revoke_named(cls, user_id: int, name: str) -> int:
        """Delete the user's tokens of that name; return how many, expired ones included."""
        wait_for_writers(user_id)
        return cls._delete(cls.user_id == user_id, cls._name() == name)

    @classmethod
    def revoke_all(cls, user_id: int | None = None) -> int:
        """Delete all tokens of one user, or of everybody; return how many."""
        return cls._delete(*([] if user_id is None else [cls.user_id == user_id]))

    @classmethod
    def _delete(cls, *criteria: sa.ColumnElement[bool]) -> int:
        """Delete tokens; return how many."""
        return rows_changed(sa.delete(cls).where(*criteria, *cls._tokens()))

    @classmethod
    def prune(cls, before: datetime) -> Iterator[int]:
        """Delete tokens that expired before that time.

        Commits each batch, and yields its size.
        """
        last = 0
        while True:
            expired = cls.token_expiration < before, cls.id > last, *cls._tokens()
            query = sa.select(cls.id).where(*expired).order_by(cls.id)
            ids = list(db.session.scalars(query.limit(PRUNE_BATCH)))
            if not ids:
                return
            db.session.execute(sa.delete(cls).where(cls.id.in_(ids)))
            db.session.commit()
            last = ids[-1]
            yield len(ids)


def note_use(update: sa.Update) -> None:
    """Execute and commit it. Fails at once where the row is locked."""
    with without_waiting(db.session.connection()):
        db.session.execute(update)
    db.session.commit()
