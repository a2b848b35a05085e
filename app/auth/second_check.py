"""The second check of a credential: in the transaction of a request, before its first write.

After the first check, the password may be changed, the token ended or the user deactivated,
while the body arrives or a hash waits for its turn. docs/decisions/0006-second-check.md says more.
"""

from typing import Any

import sqlalchemy as sa
import sqlalchemy.orm as so
from flask import has_request_context

from app.auth.challenges import refuse_role, refuse_token, require_password
from app.auth.credential import Credential, Kind
from app.extensions import db
from app.http.headers import SAFE_METHODS, request
from app.models.roles import has_role


def check_again() -> None:
    """Answer 401 if the request's credential no longer opens it; once for each transaction.

    403 if a role was taken away that the route requires.
    """
    credential: Credential | None = request.credential if has_request_context() else None
    session = db.session()
    transaction = session.get_transaction()
    if credential is None or (transaction and transaction is session.info.get("checked_in")):
        return
    if not credential.lock_if_valid():
        if credential.kind is Kind.PASSWORD:
            require_password()
        refuse_token()
    for names in request.required_roles:
        if not has_role(credential.user_id, names):
            refuse_role(names)
    _ = credential.user  # is in the session now, where an UPDATE of many rows changes it too
    session.info["checked_in"] = session.get_transaction()


def check_before_writes() -> None:
    """Check the credential of this request again before it writes through its session."""
    # Not for all sessions: SELECTs of other requests would become slower.
    sa.event.listen(db.session(), "do_orm_execute", _check_before_statement)


def _check_before_statement(state: so.ORMExecuteState) -> None:
    if not state.is_select:
        check_again()


@sa.event.listens_for(db.session, "before_flush")
def _check_before_flush(_session: so.Session, *_: Any) -> None:
    check_again()


@sa.event.listens_for(db.session, "before_commit")
def _check_before_commit(_session: so.Session) -> None:
    """For what neither of the other two sees: bulk methods, and `session.connection()`."""
    if has_request_context() and request.method not in SAFE_METHODS:
        check_again()


@sa.event.listens_for(db.session, "after_soft_rollback")
def _check_anew(session: so.Session, _transaction: so.SessionTransaction) -> None:
    session.info.pop("checked_in", None)  # a savepoint that is rolled back releases its locks
