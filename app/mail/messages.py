"""What a mail says: a text file of app/mail/templates for each kind.

The first paragraph of a file is the subject. Paragraphs have an empty line between them.
The HTML of a mail, for which layout.html is the frame, has the same paragraphs.
"""

import re
import textwrap
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import format_datetime, parseaddr
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from email_validator import EmailNotValidError, validate_email
from flask import current_app
from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape

from app.mail.links import Purpose, make_link, page_of, seconds_of
from app.models import OutgoingMail, User, address_to_verify

# What is sent; each is the name of its template.
RESET = "reset"
VERIFICATION = "verification"
# Notices that something has happened, by the names of their events; NOTICES has some of them.
PASSWORD_CHANGED = "password_changed"  # noqa: S105  no password
EMAIL_CHANGED = "email_changed"
LOG_IN = "log_in"
TOKEN_CREATED = "token_created"  # noqa: S105  no password

# Those that others than the recipient can cause.
LIMITED = {RESET, VERIFICATION, PASSWORD_CHANGED, EMAIL_CHANGED, LOG_IN, TOKEN_CREATED}
# What users choose. It stands only in a mail to a verified address: else anybody could have
# us send a text of theirs to a stranger, whose address they register.
CHOSEN_BY_USERS = ("username", "name", "new_address")

# Never within a link, which is longer than a line and has hyphens.
_WRAPPER = textwrap.TextWrapper(72, break_long_words=False, break_on_hyphens=False)
# Refuses line breaks in a header. Lines as long as they may be (RFC 5322, 2.1.1): shorter
# ones would break links.
_POLICY = SMTP.clone(cte_type="7bit", max_line_length=998)
_TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).with_name("templates")),
    autoescape=select_autoescape(["html"]),
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def message_of(mail: OutgoingMail, user: User) -> EmailMessage | None:
    """Return the mail as it is sent; `None` if there is nobody to send it to any more.

    Args:
        mail: of the outbox.
        user: `user_of(mail)`.

    Raises:
        ValueError: the address cannot stand in a mail.
        jinja2.TemplateError: the template cannot be used.
    """
    if mail.kind == VERIFICATION and mail.recipient != address_to_verify(user):
        return None  # it is verified by now, or another one is to be
    recipient = mail.recipient or user.email
    subject, paragraphs = _text_of(mail, user, is_verified=recipient == user.verified_email)
    sender = _sender()
    message = EmailMessage(_POLICY)
    message["From"] = sender
    message["To"] = Address(addr_spec=_in_ascii(recipient))
    message["Subject"] = subject
    message["Date"] = format_datetime(mail.created)
    message["Message-ID"] = f"<{mail.message_id}@{sender.domain}>"
    message["Auto-Submitted"] = "auto-generated"  # no answers by machines (RFC 3834)
    message.set_content("\n\n".join(map(_WRAPPER.fill, paragraphs)) + "\n")
    html = _TEMPLATES.get_template("layout.html").render(
        app_name=current_app.config["APP_NAME"], subject=subject, paragraphs=paragraphs
    )
    message.add_alternative(html, subtype="html")
    return message


def user_of(mail: OutgoingMail) -> User | None:
    """Return the active user whom the mail is about, or `None`."""
    if mail.user_id is None:
        return User.find_by_login(mail.details["login"])
    return User.find(mail.user_id)


def _text_of(mail: OutgoingMail, user: User, *, is_verified: bool) -> tuple[str, list[str]]:
    """Return the subject and the paragraphs.

    Args:
        mail: which is written.
        user: whom it is about.
        is_verified: whether the recipient is known to be that user.
    """
    values: dict[str, Any] = {
        "app_name": current_app.config["APP_NAME"],
        "username": user.username,
        "reset_page": page_of(Purpose.RESET),
        **mail.details,
    }
    if mail.kind in LIMITED and not is_verified:
        values |= dict.fromkeys(CHOSEN_BY_USERS & values.keys())
    # No value makes a paragraph, or a second line of a header.
    values = {name: _in_one_line(value) for name, value in values.items()}
    purpose = {RESET: Purpose.RESET, VERIFICATION: Purpose.VERIFY}.get(mail.kind)
    if purpose is not None:
        values["link"] = make_link(purpose, user)
        values["link_minutes"] = seconds_of(purpose) // 60
    text = _TEMPLATES.get_template(f"{mail.kind}.txt").render(values).lstrip("\ufeff")
    subject, *paragraphs = map(_in_one_line, re.split(r"\n\s*\n", text.strip()))
    if not paragraphs:
        raise ValueError(f"{mail.kind}.txt has no empty line between the subject and the text")
    return subject, paragraphs


def _in_one_line(value: Any) -> Any:
    return " ".join(value.split()) if isinstance(value, str) else value


def _sender() -> Address:
    """Return the sender of all mails."""
    config = current_app.config
    if config["MAIL_SENDER"] is None:
        host = urlsplit(config["SITE_URL"]).hostname or "localhost"
        domain = "localhost" if ":" in host or host.replace(".", "").isdigit() else host
        return Address(config["APP_NAME"], "no-reply", domain)
    name, address = parseaddr(config["MAIL_SENDER"])
    return Address(name or config["APP_NAME"], addr_spec=_in_ascii(address))


def _in_ascii(address: str) -> str:
    """Return the address with a domain as the DNS has it: of `bücher.example`, `xn--bcher-...`."""
    try:
        found = validate_email(address, check_deliverability=False, allow_smtputf8=False)
    except EmailNotValidError:  # of an imported database
        return address
    return found.ascii_email or address
