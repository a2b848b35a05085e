"""`flask tokens`."""

from datetime import timedelta

import click
from flask import current_app
from marshmallow import ValidationError

from app.api.schemas import NewAccessToken
from app.cli.common import DatabaseGroup, find_user, login, refusal_of
from app.clock import utc_now
from app.extensions import db, take_time
from app.http import audit
from app.http.audit import Event
from app.http.logs import printable
from app.models import AccessToken, AlreadyTakenError, OutdatedError, TooManyError, User

group = DatabaseGroup("tokens", help="Create, list and revoke tokens; report suspicious ones.")

_NEW = timedelta(days=1)
_UNUSED = timedelta(days=90)
_SOON = timedelta(days=7)


@group.command("create")
@login
@click.argument("name")
@click.option("--scope", required=True, help='One or more of "read write introspect".')
@click.option("--expires-in", type=int, help="Lifetime in seconds; 30 days by default.")
def create_token(user: str, name: str, scope: str, expires_in: int | None) -> None:
    """Create an access token for USER and print it. It cannot be shown again."""
    body = {"name": name, "scope": scope, "expires_in": expires_in}
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
    db.session.commit()
    audit.record(Event.TOKEN_CREATED, found.id)
    click.echo(access_token.text)


@group.command("list")
@login
def list_tokens(user: str) -> None:
    """List the access tokens of USER: id, name, scope, expiry, last use."""
    for token in AccessToken.all_of(find_user(user).id):
        used = "never" if token.last_used is None else token.last_used.isoformat("T", "seconds")
        expires = token.token_expiration.isoformat("T", "seconds")
        fields = (str(token.id), token.name, token.scope, expires, used)
        click.echo("\t".join(printable(field) for field in fields))


@group.command("revoke")
@click.argument("user", required=False)
@click.option("--name", help="Revoke only the access token with this name.")
@click.option(
    "--all", "everybody", is_flag=True, help="Revoke the tokens of all users, as after a theft."
)
def revoke_tokens(user: str | None, name: str | None, *, everybody: bool) -> None:
    """Revoke all login tokens and access tokens of USER, or of all users."""
    if everybody == (user is not None) or (everybody and name is not None):
        raise click.UsageError("name a user, or say --all")
    user_id = None if user is None else find_user(user).id
    take_time(db.session.connection())
    if user_id is not None and name is not None:
        count = AccessToken.revoke_named(user_id, name)
        if count == 0:
            raise click.ClickException(f"the user has no access token with the name {name!r}")
    else:
        count = User.revoke_tokens(user_id)
    db.session.commit()
    audit.record(Event.TOKEN_REVOKED, user_id)
    click.echo(f"{_tokens(count)} ended")


@group.command("prune")
@click.option("--days", type=click.IntRange(0, 36500), default=30, show_default=True)
def prune_tokens(days: int) -> None:
    """Delete access tokens that expired more than DAYS ago."""
    count = sum(AccessToken.prune(utc_now() - timedelta(days=days)))
    click.echo(f"{_tokens(count)} deleted")


@group.command("doctor")
def examine_tokens() -> None:
    """List live access tokens that are unused or expire soon; count tokens of former keys."""
    now = utc_now()
    for token in AccessToken.all_live():
        findings = []
        if token.last_used is None and token.created < now - _NEW:
            findings.append("never used")
        if token.last_used is not None and token.last_used < now - _UNUSED:
            findings.append("not used for 90 days")
        lifetime = token.token_expiration - token.created
        if lifetime > _SOON and token.token_expiration < now + _SOON:
            findings.append("expires within 7 days")
        if findings:
            names = f"{printable(token.user.username)}\t{printable(token.name)}"
            click.echo(f"{names}\t{', '.join(findings)}")
    old = User.count_tokens_of_former_keys()
    if old:
        click.echo(f"{_tokens(old)} sealed under a former SECRET_KEY")


def _tokens(count: int) -> str:
    return f"{count} token" if count == 1 else f"{count} tokens"
