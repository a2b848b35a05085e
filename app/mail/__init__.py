"""Mail: what is sent, when, and by whom.

A route puts a mail into the outbox, in its transaction (`outbox`). A sender takes it from
there (`sender`), writes it from a template (`messages`) with a link that is signed at that
moment (`links`), and gives it to the mail server (`delivery`).
"""

from flask import Flask

from app.mail import sender

__all__ = ["init_app"]


def init_app(app: Flask) -> None:
    sender.init_app(app)
