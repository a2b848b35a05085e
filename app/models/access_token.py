"""Access tokens: one for each script or service, with a name, scopes and a lifetime."""

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, cast

import sqlalchemy as sa
import sqlalchemy.orm as so

from app.clock import utc_now
from app.extensions import Model, db, rows_changed, without_waiting
from app.models.columns import BigId, UTCDateTime
from app.models.errors import AlreadyTakenError, TooManyError
from app.models.login import wait_for_writers
from app.models.page import Page, paged
from app.security import tokens

if TYPE_CHECKING:
    from app.models.user import User

SCOPES = ("read", "write", "introspect")
USE_NOTED_EVERY = timedelta(hours=1)
KEPT_AFTER_EXPIRY = timedelta(days=30)
PRUNE_BATCH = 1000  # rows


class AccessToken(Model):
    # SQLite would give the id of a revoked token to the next one.
    __table_args__ = {"sqlite_autoincrement": True}  # noqa: RUF012  as SQLAlchemy has it

    id: so.Mapped[int] = so.mapped_column(BigId, primary_key=True)
    user_id: so.Mapped[int] = so.mapped_column(sa.ForeignKey("user.id", ondelete="CASCADE"))
    # Unique among the live tokens of a user.
    name: so.Mapped[str] = so.mapped_column(sa.String(64))
    # Some of SCOPES, separated by spaces (RFC 6749, 3.3).
    scope: so.Mapped[str] = so.mapped_column(sa.String(64))
    # `tokens.digest` of the text, which is not stored.
    digest: so.Mapped[bytes] = so.mapped_column(sa.LargeBinary(32), unique=True)
    token_expiration: so.Mapped[datetime] = so.mapped_column(UTCDateTime)
    created: so.Mapped[datetime] = so.mapped_column(UTCDateTime)
    # To the hour; `None` if never.
    last_used: so.Mapped[datetime | None] = so.mapped_column(UTCDateTime)

    user: so.Mapped["User"] = so.relationship(lazy="raise", viewonly=True)

    # The token itself, on a new object only; not a column.
    text = cast("str | None", None)

    def __repr__(self) -> str:
        return f"<AccessToken {self.name}>"

    # -- Making ------------------------------------------------------------------------

    @staticmethod
    def create(user: "User", name: str, scope: str, expires_in: int, most: int) -> "AccessToken":
        """Return a new access token of the user, not committed; only this object has its `text`.

        Args:
            user: its owner.
            name: chosen by the user.
            scope: some of `SCOPES`, separated by spaces.
            expires_in: lifetime in seconds.
            most: how many live ones the user may have.

        Raises:
            AlreadyTakenError: another live token of the user has the name.
            TooManyError: the user has `most` of them.
            OutdatedError: the user has a new password, or was deactivated.
        """
        user.lock()  # first, as everything that ends tokens does; and one at a time
        long_ago = AccessToken.token_expiration < utc_now() - KEPT_AFTER_EXPIRY
        db.session.execute(sa.delete(AccessToken).where(AccessToken.user_id == user.id, long_ago))
        names = list(db.session.scalars(sa.select(AccessToken.name).where(*_live(user.id))))
        if name in names:
            raise AlreadyTakenError("name")
        if len(names) >= most:
            raise TooManyError
        now = utc_now()
        text = tokens.make(tokens.ACCESS_PREFIX)
        access_token = AccessToken(
            user_id=user.id,
            name=name,
            scope=scope,
            digest=tokens.digest(text),
            token_expiration=now + timedelta(seconds=expires_in),
            created=now,
        )
        access_token.text = text
        db.session.add(access_token)
        db.session.flush()
        return access_token

    # -- Finding -----------------------------------------------------------------------

    @staticmethod
    def page_of(user_id: int, page: int, per_page: int) -> Page:
        """Return a page of the user's live tokens, by ascending id."""
        total = db.session.scalars(
            sa.select(sa.func.count(AccessToken.id)).where(*_live(user_id))
        ).one()
        values = {"user_id": user_id, "now": utc_now()}
        return Page.of(_PAGE, page, per_page, total, **values)

    @staticmethod
    def find_of(user_id: int, id: int) -> "AccessToken | None":
        """Return the user's live token with this id, or `None`."""
        return db.session.scalar(
            sa.select(AccessToken).where(AccessToken.id == id, *_live(user_id))
        )

    @staticmethod
    def all_of(user_id: int) -> list["AccessToken"]:
        """Return the user's tokens by ascending id, expired ones included."""
        query = sa.select(AccessToken).where(AccessToken.user_id == user_id)
        return list(db.session.scalars(query.order_by(AccessToken.id)))

    @staticmethod
    def all_live() -> Iterator["AccessToken"]:
        """Iterate over all live tokens with their `user`, read in portions."""
        query = (
            sa.select(AccessToken)
            .options(so.joinedload(AccessToken.user, innerjoin=True))
            .where(AccessToken.token_expiration > utc_now())
            .order_by(AccessToken.id)
            .execution_options(yield_per=1000)
        )
        return iter(db.session.scalars(query))

    # -- Using -------------------------------------------------------------------------

    @property
    def seconds_left(self) -> int:
        """Seconds until expiry, rounded; at least 0."""
        return max(0, round((self.token_expiration - utc_now()).total_seconds()))

    @staticmethod
    def use_is_noted(last_used: datetime | None) -> bool:
        """Whether `last_used` is less than an hour old: then a use is not written again."""
        return last_used is not None and last_used > utc_now() - USE_NOTED_EVERY

    @staticmethod
    def note_use(id: int) -> None:
        """Set `last_used` and commit. Fails at once where the row is locked."""
        with without_waiting(db.session.connection()):
            statement = sa.update(AccessToken).where(AccessToken.id == id)
            db.session.execute(statement.values(last_used=utc_now()))
        db.session.commit()

    # -- Ending ------------------------------------------------------------------------

    def revoke(self) -> None:
        """Delete the token; no error if another request has just done so."""
        wait_for_writers(self.user_id)
        db.session.execute(sa.delete(AccessToken).where(AccessToken.id == self.id))

    @staticmethod
    def revoke_named(user_id: int, name: str) -> int:
        """Delete the user's tokens of that name; return how many, expired ones included."""
        wait_for_writers(user_id)
        named = AccessToken.user_id == user_id, AccessToken.name == name
        return rows_changed(sa.delete(AccessToken).where(*named))

    @staticmethod
    def revoke_all(user_id: int | None = None) -> int:
        """Delete all tokens of one user, or of everybody; return how many."""
        tokens_of_user = [] if user_id is None else [AccessToken.user_id == user_id]
        return rows_changed(sa.delete(AccessToken).where(*tokens_of_user))

    @staticmethod
    def prune(before: datetime) -> Iterator[int]:
        """Delete tokens that expired before that time.

        Commits each batch, and yields its size.
        """
        last = 0
        while True:
            expired = AccessToken.token_expiration < before, AccessToken.id > last
            query = sa.select(AccessToken.id).where(*expired).order_by(AccessToken.id)
            ids = list(db.session.scalars(query.limit(PRUNE_BATCH)))
            if not ids:
                return
            db.session.execute(sa.delete(AccessToken).where(AccessToken.id.in_(ids)))
            db.session.commit()
            last = ids[-1]
            yield len(ids)


def _live(user_id: int) -> tuple[sa.ColumnElement[bool], ...]:
    return AccessToken.user_id == user_id, AccessToken.token_expiration > utc_now()


sa.Index("ix_access_token_user_id", AccessToken.user_id, AccessToken.id)

# Built once: building a statement costs more than running it.
_PAGE = paged(
    sa.select(AccessToken)
    .where(
        AccessToken.user_id == sa.bindparam("user_id", type_=sa.BigInteger),
        AccessToken.token_expiration > sa.bindparam("now", type_=UTCDateTime),
    )
    .order_by(AccessToken.id)
)
