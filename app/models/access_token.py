"""Access tokens: each for one device, script or service, named, with scopes and a lifetime."""

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import cast

import sqlalchemy as sa
import sqlalchemy.orm as so

from app.columns import BigId, UTCDateTime, utc_now
from app.extensions import Model, db, rows_changed, without_waiting
from app.models.page import Page, paged

SCOPES = ("read", "write", "introspect")
USE_NOTED_EVERY = timedelta(hours=1)
KEPT_FOR = timedelta(days=30)  # after it has expired, to be looked at
PRUNED_AT_ONCE = 1000


class AccessToken(Model):
    # SQLite would give the id of a revoked token to the next one.
    __table_args__ = {"sqlite_autoincrement": True}  # noqa: RUF012  as SQLAlchemy has it

    id: so.Mapped[int] = so.mapped_column(BigId, primary_key=True)
    user_id: so.Mapped[int] = so.mapped_column(sa.ForeignKey("user.id", ondelete="CASCADE"))
    # Of a user's live tokens, only one has it.
    name: so.Mapped[str] = so.mapped_column(sa.String(64))
    # Some of SCOPES, separated by spaces (RFC 6749, 3.3).
    scope: so.Mapped[str] = so.mapped_column(sa.String(64))
    # Of the text (`tokens.digest`), which is kept nowhere.
    digest: so.Mapped[bytes] = so.mapped_column(sa.LargeBinary(32), unique=True)
    token_expiration: so.Mapped[datetime] = so.mapped_column(UTCDateTime)
    created: so.Mapped[datetime] = so.mapped_column(UTCDateTime)
    # To the hour; `None` if never.
    last_used: so.Mapped[datetime | None] = so.mapped_column(UTCDateTime)

    # The token itself, while it has just been created; no column.
    text = cast("str | None", None)

    def __repr__(self) -> str:
        return f"<AccessToken {self.name}>"

    @staticmethod
    def live_names(user_id: int) -> list[str]:
        """The names of the user's live tokens."""
        return list(db.session.scalars(sa.select(AccessToken.name).where(*_live(user_id))))

    @staticmethod
    def page_of(user_id: int, page: int, per_page: int) -> Page:
        """A page of the user's live tokens, by ascending id."""
        total = db.session.scalars(
            sa.select(sa.func.count(AccessToken.id)).where(*_live(user_id))
        ).one()
        values = {"user_id": user_id, "now": utc_now()}
        return Page.of(_PAGE, page, per_page, total, **values)

    @staticmethod
    def find_of(user_id: int, id: int) -> "AccessToken | None":
        """The user's live token with this id; `None` if there is none."""
        return db.session.scalar(
            sa.select(AccessToken).where(AccessToken.id == id, *_live(user_id))
        )

    @staticmethod
    def all_of(user_id: int) -> list["AccessToken"]:
        """The user's tokens by ascending id, expired ones included."""
        query = sa.select(AccessToken).where(AccessToken.user_id == user_id)
        return list(db.session.scalars(query.order_by(AccessToken.id)))

    @staticmethod
    def all_live_with_owner() -> Iterator[tuple["AccessToken", str]]:
        """Everybody's live tokens with the owner's user name, read in portions."""
        user = db.metadata.tables["user"]
        query = (
            sa.select(AccessToken, user.c.username)
            .join(user, user.c.id == AccessToken.user_id)
            .where(AccessToken.token_expiration > utc_now())
            .order_by(AccessToken.id)
            .execution_options(yield_per=1000)
        )
        return ((token, username) for token, username in db.session.execute(query))

    @property
    def has_live_token(self) -> bool:
        return self.token_expiration > utc_now()

    @property
    def seconds_left(self) -> int:
        """What remains of the token, to the nearest second."""
        return max(0, round((self.token_expiration - utc_now()).total_seconds()))

    @property
    def use_is_noted(self) -> bool:
        """Whether a use within the last hour is noted; noting each would be a write for each."""
        return self.last_used is not None and self.last_used > utc_now() - USE_NOTED_EVERY

    @staticmethod
    def note_use(id: int) -> None:
        """The token was used just now. Fails at once where the row cannot be written at once."""
        with without_waiting(db.session.connection()):
            statement = sa.update(AccessToken).where(AccessToken.id == id)
            db.session.execute(statement.values(last_used=utc_now()))
        db.session.commit()

    def revoke(self) -> None:
        """Ends the token; nothing happens if another request has just done so."""
        db.session.execute(sa.delete(AccessToken).where(AccessToken.id == self.id))

    @staticmethod
    def revoke_named(user_id: int, name: str) -> int:
        """Ends the user's token of that name; how many, expired ones included."""
        named = AccessToken.user_id == user_id, AccessToken.name == name
        return rows_changed(sa.delete(AccessToken).where(*named))

    @staticmethod
    def prune(before: datetime) -> Iterator[int]:
        """Deletes what had expired before that time, in batches that are committed; the sizes."""
        last = 0
        while True:
            expired = AccessToken.token_expiration < before, AccessToken.id > last
            query = sa.select(AccessToken.id).where(*expired).order_by(AccessToken.id)
            ids = list(db.session.scalars(query.limit(PRUNED_AT_ONCE)))
            if not ids:
                return
            db.session.execute(sa.delete(AccessToken).where(AccessToken.id.in_(ids)))
            db.session.commit()
            last = ids[-1]
            yield len(ids)

    @staticmethod
    def forget_expired_of(user_id: int) -> None:
        """Deletes the user's tokens that have expired for longer than 30 days."""
        long_ago = AccessToken.token_expiration < utc_now() - KEPT_FOR
        db.session.execute(sa.delete(AccessToken).where(AccessToken.user_id == user_id, long_ago))

    @staticmethod
    def revoke_all_of(user_id: int) -> None:
        db.session.execute(sa.delete(AccessToken).where(AccessToken.user_id == user_id))


def _live(user_id: int) -> tuple[sa.ColumnElement[bool], ...]:
    return AccessToken.user_id == user_id, AccessToken.token_expiration > utc_now()


sa.Index("ix_access_token_user_id", AccessToken.user_id, AccessToken.id)

_PAGE = paged(
    sa.select(AccessToken)
    .where(
        AccessToken.user_id == sa.bindparam("user_id", type_=sa.BigInteger),
        AccessToken.token_expiration > sa.bindparam("now", type_=UTCDateTime),
    )
    .order_by(AccessToken.id)
)
