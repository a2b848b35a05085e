"""What the routes do with the token of a link in a mail."""

from typing import NoReturn

from apiflask import abort

from app.mail.links import ExpiredLinkError, InvalidLinkError, Purpose, user_of
from app.models import User


def user_of_link(purpose: Purpose, token: str) -> User:
    """Return the user for whom a link was made; answer 400 if it is expired or invalid."""
    try:
        return user_of(purpose, token)
    except ExpiredLinkError:
        abort(400, "the link has expired; ask for a new one")
    except InvalidLinkError:
        refuse_link()


def refuse_link() -> NoReturn:
    """Answer 400: the link opens nothing."""
    abort(400, "the link is not valid; it may have been used already")
