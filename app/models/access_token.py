"""Access tokens: one for each script or service, with a name, scopes and a lifetime.

A token whose text was rotated has a second row for its previous text, until that
expires. So a text is found by one unique index, whichever of the two it is.
"""

from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import sqlalchemy as sa
import sqlalchemy.orm as so

from app.clock import utc_now
from app.extensions import db
from app.models.columns import UTCDateTime
from app.models.errors import AlreadyTakenError, OverlapError, TooManyError
from app.models.locks import wait_for_writers
from app.models.page import Page, paged
from app.models.stored_token import StoredToken
from app.security import tokens

if TYPE_CHECKING:
    from app.models.user import User

SCOPES = ("read", "write", "introspect")


class AccessToken(StoredToken):
    # Unique among the live tokens of a user.
    name: so.Mapped[str] = so.mapped_column(sa.String(64))
    # Some of SCOPES, separated by spaces (RFC 6749, 3.3).
    scope: so.Mapped[str] = so.mapped_column(sa.String(64))

    # As in "100 per minute"; `None` without a limit.
    rate_limit: so.Mapped[str | None] = so.mapped_column(sa.String(64))
    # In the row of a previous text, the id of its token; `None` in that of a token.
    current_id: so.Mapped[int | None] = so.mapped_column(
        sa.ForeignKey("access_token.id", ondelete="CASCADE")
    )

    # The row of the previous text, expired or not; read by a second SELECT for a whole page.
    previous: so.Mapped["AccessToken | None"] = so.relationship(
        primaryjoin=lambda: AccessToken.id == so.remote(so.foreign(AccessToken.current_id)),
        lazy="selectin",
        join_depth=1,
        viewonly=True,
    )

    @classmethod
    def _name(cls) -> so.InstrumentedAttribute[str]:
        return cls.name

    def __repr__(self) -> str:
        return f"<AccessToken {self.name}>"

    # -- Making ------------------------------------------------------------------------

    @staticmethod
    def create(  # noqa: PLR0913  the columns
        user: "User",
        name: str,
        scope: str,
        expires_in: int,
        *,
        most: int,
        limit: str | None = None,
    ) -> "AccessToken":
        """Return a new access token of the user, not committed; only this object has its `text`.

        Args:
            user: its owner.
            name: chosen by the user.
            scope: some of `SCOPES`, separated by spaces.
            expires_in: lifetime in seconds.
            most: how many live ones the user may have.
            limit: of its requests, as in "100 per minute"; `None` for none.

        Raises:
            AlreadyTakenError: another live token of the user has the name.
            TooManyError: the user has `most` of them.
            OutdatedError: the user has a new password, or was deactivated.
        """
        user.lock()  # first, as everything that ends tokens does; and one at a time
        AccessToken._delete_long_expired(user.id)
        names = list(
            db.session.scalars(sa.select(AccessToken.name).where(*AccessToken._live(user.id)))
        )
        if name in names:
            raise AlreadyTakenError("name")
        if len(names) >= most:
            raise TooManyError
        token = AccessToken._make(
            tokens.ACCESS_PREFIX,
            utc_now(),
            expires_in,
            user_id=user.id,
            name=name,
            scope=scope,
            rate_limit=limit,
        )
        so.attributes.set_committed_value(token, "previous", None)
        return token

    # -- Rotating ----------------------------------------------------------------------

    @staticmethod
    def rotate(user_id: int, id: int, overlap_seconds: int) -> "AccessToken | None":
        """Give one of the user's live tokens a new text, not committed.

        Return the token, which alone has the `text`; `None` if there is no such token.

        Args:
            user_id: its owner.
            id: of the token.
            overlap_seconds: how long the old text still works; with 0 it fails from the
                commit on, and so does the text before it.

        Raises:
            OverlapError: the text before the old one still works.
        """
        wait_for_writers(user_id)  # who write with the old text; and one rotation at a time
        token = AccessToken.find_of(user_id, id)
        if token is None:
            return None
        if overlap_seconds and token.previous_seconds_left is not None:
            raise OverlapError(token.previous_seconds_left)
        db.session.execute(sa.delete(AccessToken).where(AccessToken.current_id == token.id))
        digest, token.text = token.digest, tokens.make(tokens.ACCESS_PREFIX)
        token.digest = tokens.digest(token.text)
        previous = AccessToken._keep(token, digest, overlap_seconds) if overlap_seconds else None
        so.attributes.set_committed_value(token, "previous", previous)
        return token

    @staticmethod
    def _keep(token: "AccessToken", digest: bytes, seconds: int) -> "AccessToken":
        """Return a new row for the previous text of the token."""
        end = utc_now() + timedelta(seconds=seconds)
        row = AccessToken(
            user_id=token.user_id,
            name=token.name,
            scope=token.scope,
            rate_limit=token.rate_limit,
            digest=digest,
            token_expiration=min(end, token.token_expiration),
            created=token.created,
            current_id=token.id,
        )
        db.session.add(row)
        return row

    @property
    def _live_previous(self) -> "AccessToken | None":
        row = self.previous
        return row if row is not None and row.token_expiration > utc_now() else None

    @property
    def previous_last_used(self) -> datetime | None:
        """When the previous text was last used since the rotation, to the hour."""
        return None if self._live_previous is None else self._live_previous.last_used

    @property
    def previous_seconds_left(self) -> int | None:
        """Seconds until the previous text expires, at least 1; `None` if there is none."""
        return None if self._live_previous is None else max(1, self._live_previous.seconds_left)

    # -- Finding -----------------------------------------------------------------------

    @classmethod
    def _tokens(cls) -> tuple[sa.ColumnElement[bool], ...]:
        return (cls.current_id.is_(None),)

    @staticmethod
    def page_of(user_id: int, page: int, per_page: int) -> Page:
        """Return a page of the user's live tokens, by ascending id."""
        total = db.session.scalars(
            sa.select(sa.func.count(AccessToken.id)).where(*AccessToken._live(user_id))
        ).one()
        values = {"user_id": user_id, "now": utc_now()}
        return Page.of(_PAGE, page, per_page, total, **values)

    # -- Ending ------------------------------------------------------------------------
    #
    # The row of a previous text goes with that of its token: ON DELETE CASCADE.

    @staticmethod
    def revoke_text(user_id: int, digest: bytes) -> None:
        """Delete the token that has this text; not by a previous text that has expired."""
        wait_for_writers(user_id)
        found = db.session.scalar(sa.select(AccessToken).where(AccessToken.digest == digest))
        if found is not None and (found.current_id is None or found.token_expiration > utc_now()):
            AccessToken._delete(AccessToken.id == (found.current_id or found.id))


# One previous text for each token. Partial: SQLite would search it for all that have none.
_HAS_CURRENT = AccessToken.current_id.is_not(None)
sa.Index(
    "ix_access_token_current_id",
    AccessToken.current_id,
    unique=True,
    sqlite_where=_HAS_CURRENT,
    postgresql_where=_HAS_CURRENT,
)
# Built once: building a statement costs more than running it.
_PAGE = paged(
    sa.select(AccessToken)
    .where(
        AccessToken.user_id == sa.bindparam("user_id", type_=sa.BigInteger),
        AccessToken.current_id.is_(None),
        AccessToken.token_expiration > sa.bindparam("now", type_=UTCDateTime),
    )
    .order_by(AccessToken.id)
)
