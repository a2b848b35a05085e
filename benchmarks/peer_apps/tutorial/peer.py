"""The Flask Mega-Tutorial, 2024 edition, chapter 23: its tokens, without its pages."""

import os
import secrets
from datetime import UTC, datetime, timedelta

import sqlalchemy as sa
import sqlalchemy.orm as so
from flask import Flask
from flask_httpauth import HTTPTokenAuth
from flask_sqlalchemy import SQLAlchemy

app = Flask(__name__)
app.config["SQLALCHEMY_DATABASE_URI"] = os.environ["DATABASE_URL"].replace(
    "postgresql://", "postgresql+psycopg2://"
)
db = SQLAlchemy(app)
token_auth = HTTPTokenAuth()


class User(db.Model):
    id: so.Mapped[int] = so.mapped_column(primary_key=True)
    username: so.Mapped[str] = so.mapped_column(sa.String(64), index=True, unique=True)
    email: so.Mapped[str] = so.mapped_column(sa.String(120), index=True, unique=True)
    password_hash: so.Mapped[str | None] = so.mapped_column(sa.String(256))
    about_me: so.Mapped[str | None] = so.mapped_column(sa.String(140))
    last_seen: so.Mapped[datetime | None] = so.mapped_column(default=lambda: datetime.now(UTC))
    token: so.Mapped[str | None] = so.mapped_column(sa.String(32), index=True, unique=True)
    token_expiration: so.Mapped[datetime | None]

    def get_token(self, expires_in=3600):
        now = datetime.now(UTC)
        if self.token and self.token_expiration.replace(tzinfo=UTC) > now + timedelta(seconds=60):
            return self.token
        self.token = secrets.token_hex(16)
        self.token_expiration = now + timedelta(seconds=expires_in)
        db.session.add(self)
        return self.token

    @staticmethod
    def check_token(token):
        user = db.session.scalar(sa.select(User).where(User.token == token))
        if user is None or user.token_expiration.replace(tzinfo=UTC) < datetime.now(UTC):
            return None
        return user


@token_auth.verify_token
def verify_token(token):
    return User.check_token(token) if token else None


@app.get("/api/me")
@token_auth.login_required
def me():
    user = token_auth.current_user()
    return {"id": user.id, "username": user.username}


def make_token():
    with app.app_context():
        db.create_all()
        token = User(username="alice", email="alice@example.com").get_token()
        db.session.commit()
        return token
