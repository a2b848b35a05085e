"""What every request and every response has: headers, body, errors, logs."""

from flask import Flask

from app.http import audit, body, errors, headers, health, logs, replica, transactions


def init_app(app: Flask) -> None:
    for module in (headers, body, logs, audit, errors, transactions, replica, health):
        module.init_app(app)
