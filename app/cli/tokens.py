"""`flask tokens`."""

from datetime import datetime, timedelta

import click
from flask import current_app
from marshmallow import ValidationError

from app.api.schemas import NewAccessToken
from app.cli.common import DatabaseGroup, find_user, login, refusal_of
from app.clock import utc_now
from app.extensions import db, remove_timeout, use_database_time
from app.http import audit
from app.http.audit import Event
from app.http.logs import printable
from app.mail.outbox import put_token_notice
from app.models import (
    AccessToken,
    AlreadyTakenError,
    DeviceSession,
    OutdatedError,
    Session,
    TooManyError,
    User,
)
from app.models.session import SHARED_ID

group = DatabaseGroup("tokens", help="Create, list and revoke tokens; report suspicious ones.")

_NEW = timedelta(days=1)
_UNUSED = timedelta(days=90)
_SOON = timedelta(days=7)
_DAY_SECONDS = 24 * 3600


@group.command("create")
@login
@click.argument("name")
@click.option("--scope", required=True, help='One or more of "read write introspect".')
@click.option("--expires-in", type=int, help="Lifetime in seconds; 30 days by default.")
@click.option("--limit", help='Of its requests, as in "100 per minute"; none by default.')
def create_token(
    user: str, name: str, scope: str, expires_in: int | None, limit: str | None
) -> None:
    """Create an access token for USER and print it. It cannot be shown again."""
    body = {"name": name, "scope": scope, "expires_in": expires_in, "limit": limit}
    found = find_user(user)
    most = current_app.config["ACCESS_TOKENS_PER_USER"]
    try:
        fields = NewAccessToken().load({k: v for k, v in body.items() if v is not None})
        access_token = AccessToken.create(found, **fields, most=most)
    except ValidationError as error:
        raise refusal_of(error) from None
    except AlreadyTakenError:
        raise click.ClickException("name: another live token of the user has it") from None
    except TooManyError:
        raise click.ClickException(f"limit of {most} access tokens reached") from None
    except OutdatedError:
        raise click.ClickException("the user is deactivated") from None
    put_token_notice(found, access_token, source=None)
    db.session.commit()
    audit.record(Event.TOKEN_CREATED, found.id)
    try:
        click.echo(access_token.text)
    except OSError as error:
        text = f"the token was created, but cannot be written: {error.strerror}"
        raise click.ClickException(f"{text}; revoke it with --name") from None


@group.command("list")
@login
def list_tokens(user: str) -> None:
    """List the tokens of USER: id, name, scope, expiry, last use; of access tokens the limit.

    Access tokens first, expired ones included; then the live log ins.
    """
    found = find_user(user)
    for token in AccessToken.all_of(found.id):
        expiry, used = _text(token.token_expiration), _text(token.last_used)
        limit = token.rate_limit or "no limit"
        _print_fields(str(token.id), token.name, token.scope, expiry, used, limit)
    for session in Session.all_of(found):
        name, kind = session.device or "", "shared log in" if session.id == SHARED_ID else "device"
        expiry, used = _text(session.expires_at), _text(session.last_used)
        _print_fields(str(session.id), name, kind, expiry, used)


def _text(time: datetime | None) -> str:
    return "never" if time is None else time.isoformat("T", "seconds")


def _print_fields(*fields: str) -> None:
    click.echo("\t".join(printable(field) for field in fields))


@group.command("revoke")
@click.argument("user", required=False)
@click.option("--name", help="Revoke only the access token with this name.")
@click.option("--device", help="End only the log ins of the device with this name.")
@click.option(
    "--all", "everybody", is_flag=True, help="Revoke the tokens of all users, as after a theft."
)
def revoke_tokens(
    user: str | None, name: str | None, device: str | None, *, everybody: bool
) -> None:
    """Revoke all tokens of USER, or of all users."""
    if everybody == (user is not None) or (everybody and (name is not None or device is not None)):
        raise click.UsageError("name a user, or say --all")
    if name is not None and device is not None:
        raise click.UsageError("say --name or --device, not both")
    user_id = None if user is None else find_user(user).id
    remove_timeout(db.session.connection())
    if user_id is not None and name is not None:
        count = AccessToken.revoke_named(user_id, name)
        if count == 0:
            raise click.ClickException(f"the user has no access token with the name {name!r}")
    elif user_id is not None and device is not None:
        count = DeviceSession.revoke_named(user_id, device)
        if count == 0:
            raise click.ClickException(f"the user has no device with the name {device!r}")
    else:
        count = User.revoke_tokens(user_id)
    db.session.commit()
    audit.record(Event.TOKEN_REVOKED, user_id)
    click.echo(f"{_tokens(count)} ended")


@group.command("prune")
@click.option("--days", type=click.IntRange(0, 36500), default=30, show_default=True)
def prune_tokens(days: int) -> None:
    """Delete tokens of access and of devices that expired more than DAYS ago."""
    use_database_time()
    remove_timeout(db.session.connection())
    before = utc_now() - timedelta(days=days)
    count = sum(sum(kind.prune(before)) for kind in (AccessToken, DeviceSession))
    click.echo(f"{_tokens(count)} deleted")


@group.command("doctor")
def examine_tokens() -> None:
    """List live tokens that need attention; count tokens of former keys.

    Those that are unused, expire soon, or whose text from before a rotation is still used.
    """
    use_database_time()
    now = utc_now()
    for session in DeviceSession.all_live():
        if session.last_used is not None and session.last_used < now - _UNUSED:
            _print_fields(session.user.username, session.device, "not used for 90 days")
    for token in AccessToken.all_live():
        findings = []
        if token.last_used is None and token.created < now - _NEW:
            findings.append("never used")
        if token.last_used is not None and token.last_used < now - _UNUSED:
            findings.append("not used for 90 days")
        lifetime = token.token_expiration - token.created
        if lifetime > _SOON and token.token_expiration < now + _SOON:
            findings.append("expires within 7 days")
        if token.previous_last_used is not None and token.previous_seconds_left is not None:
            days = token.previous_seconds_left / _DAY_SECONDS
            findings.append(f"rotated, but the old text is used; it expires in {days:.1f} days")
        if findings:
            _print_fields(token.user.username, token.name, ", ".join(findings))
    old = User.count_tokens_of_former_keys()
    if old:
        click.echo(f"{_tokens(old)} sealed under a former SECRET_KEY")


def _tokens(count: int) -> str:
    return f"{count} token" if count == 1 else f"{count} tokens"
