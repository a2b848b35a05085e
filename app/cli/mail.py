"""`flask mail`: the outbox."""

import signal
from typing import TYPE_CHECKING

import click
from flask import current_app

from app.cli.common import DatabaseGroup
from app.extensions import db
from app.http.logs import printable
from app.mail.delivery import UnavailableError
from app.models import OutgoingMail

if TYPE_CHECKING:
    from app.mail.sender import Sender

group = DatabaseGroup("mail", help="Send and list the mails of the outbox.")


@group.command("send")
@click.option("--follow", is_flag=True, help="Go on until SIGTERM or SIGINT.")
def send(*, follow: bool) -> None:
    """Send all mails that are due, also while servers do."""
    sender: Sender = current_app.extensions["mail"]
    if follow:
        # Blocked in all threads: the main one waits for them, and ends the other with it.
        signals = {signal.SIGTERM, signal.SIGINT}
        signal.pthread_sigmask(signal.SIG_BLOCK, signals)
        sender.start()
        signal.sigwait(signals)
        return
    try:
        sent = sender.send_due()
    except UnavailableError as error:
        raise click.ClickException(f"the mail server cannot be used: {error}") from None
    click.echo(f"{_mails(sent)} sent")


@group.command("list")
def list_mails() -> None:
    """List the mails that are not sent yet, or were given up, tab separated.

    Id, kind, id of the user or the login that was given, address if it is known, when it was
    put there, attempts, when it is tried next or "given up", and the last error.
    """
    for mail in OutgoingMail.all():
        who = mail.details.get("login", "") if mail.user_id is None else str(mail.user_id)
        due = "given up" if mail.due is None else mail.due.isoformat("T", "seconds")
        created = mail.created.isoformat("T", "seconds")
        fields = (
            *(str(mail.id), mail.kind, who, mail.recipient or "", created),
            *(str(mail.attempts), due, mail.error or ""),
        )
        click.echo("\t".join(printable(field) for field in fields))


@group.command("retry")
def retry() -> None:
    """Retry the mails that were given up, for one more day."""
    count = OutgoingMail.retry_given_up()
    db.session.commit()
    click.echo(f"{_mails(count)} will be tried again")


def _mails(count: int) -> str:
    return f"{count} mail" if count == 1 else f"{count} mails"
