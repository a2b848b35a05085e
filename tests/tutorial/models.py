"""The tables of each edition. `Models(db, edition)` has a class for each."""

import base64
import os
import secrets
from datetime import UTC, datetime, timedelta
from time import time
from typing import NamedTuple

import sqlalchemy as sa
from flask import url_for
from werkzeug.security import check_password_hash, generate_password_hash


class Edition(NamedTuple):
    """What an edition has of its own.

    Attributes:
        hash_method: of Werkzeug at that time.
        hash_length: of the column, in characters.
        new_token: makes the text of a token, 32 characters.
        following: what the list of those whom a user follows is called.
        is_strict: the columns that must not be NULL, the indexes of foreign keys and the
            primary key of `followers` are there.
    """

    hash_method: str
    hash_length: int
    new_token: object
    following: str
    is_strict: bool


def base64_token():
    return base64.b64encode(os.urandom(24)).decode()


EDITIONS = {
    "2018": Edition("pbkdf2:sha256:50000", 128, base64_token, "followed", is_strict=False),
    "2021": Edition("pbkdf2:sha256:260000", 128, base64_token, "followed", is_strict=False),
    "2024": Edition(
        "scrypt:32768:8:1", 256, lambda: secrets.token_hex(16), "following", is_strict=True
    ),
}


def utc_now():
    """Return the time as the columns have it: UTC, without a time zone."""
    return datetime.now(UTC).replace(tzinfo=None)


class Models:
    def __init__(self, db, edition):
        strict = edition.is_strict

        def reference(name="user.id"):
            return sa.Column(sa.Integer, sa.ForeignKey(name), nullable=not strict, index=strict)

        def instant():
            return sa.Column(sa.DateTime, nullable=not strict, index=True, default=utc_now)

        followers = sa.Table(
            "followers",
            db.metadata,
            sa.Column("follower_id", sa.Integer, sa.ForeignKey("user.id"), primary_key=strict),
            sa.Column("followed_id", sa.Integer, sa.ForeignKey("user.id"), primary_key=strict),
        )

        class User(UserMethods, db.Model):
            id = sa.Column(sa.Integer, primary_key=True)
            username = sa.Column(sa.String(64), nullable=not strict, index=True, unique=True)
            email = sa.Column(sa.String(120), nullable=not strict, index=True, unique=True)
            password_hash = sa.Column(sa.String(edition.hash_length))
            about_me = sa.Column(sa.String(140))
            last_seen = sa.Column(sa.DateTime, default=utc_now)
            last_message_read_time = sa.Column(sa.DateTime)
            token = sa.Column(sa.String(32), index=True, unique=True)
            token_expiration = sa.Column(sa.DateTime)

        class Post(db.Model):
            id = sa.Column(sa.Integer, primary_key=True)
            body = sa.Column(sa.String(140), nullable=not strict)
            timestamp = instant()
            user_id = reference()
            language = sa.Column(sa.String(5))

        class Message(db.Model):
            id = sa.Column(sa.Integer, primary_key=True)
            sender_id = reference()
            recipient_id = reference()
            body = sa.Column(sa.String(140), nullable=not strict)
            timestamp = instant()

        class Notification(db.Model):
            id = sa.Column(sa.Integer, primary_key=True)
            name = sa.Column(sa.String(128), nullable=not strict, index=True)
            user_id = reference()
            timestamp = sa.Column(sa.Float, nullable=not strict, index=True, default=time)
            payload_json = sa.Column(sa.Text, nullable=not strict)

        class Task(db.Model):
            id = sa.Column(sa.String(36), primary_key=True)
            name = sa.Column(sa.String(128), nullable=not strict, index=True)
            description = sa.Column(sa.String(128))
            user_id = sa.Column(sa.Integer, sa.ForeignKey("user.id"), nullable=not strict)
            complete = sa.Column(sa.Boolean, nullable=not strict, default=False)

        User.db, User.edition, User.followers, User.posts = db, edition, followers, Post
        self.followers = followers
        self.User, self.Post, self.Message = User, Post, Message
        self.Notification, self.Task = Notification, Task


class UserMethods:
    """What the tutorial's `User` does; `Models` sets `db`, `edition`, `followers`, `posts`."""

    def set_password(self, password):
        self.password_hash = generate_password_hash(password, method=self.edition.hash_method)

    def check_password(self, password):
        return check_password_hash(self.password_hash, password)

    def get_token(self, expires_in=3600):
        now = utc_now()
        if self.token and self.token_expiration > now + timedelta(seconds=60):
            return self.token
        self.token = self.edition.new_token()
        self.token_expiration = now + timedelta(seconds=expires_in)
        self.db.session.add(self)
        return self.token

    def revoke_token(self):
        self.token_expiration = utc_now() - timedelta(seconds=1)

    @classmethod
    def check_token(cls, token):
        user = cls.db.session.scalar(sa.select(cls).where(cls.token == token))
        if user is None or user.token_expiration < utc_now():
            return None
        return user

    def from_dict(self, data, *, new_user=False):
        for field in ("username", "email", "about_me"):
            if field in data:
                setattr(self, field, data[field])
        if new_user and "password" in data:
            self.set_password(data["password"])

    def to_dict(self):
        following = self.edition.following
        columns = self.followers.c
        return {
            "id": self.id,
            "username": self.username,
            "last_seen": self.last_seen.isoformat() + "Z",
            "about_me": self.about_me,
            "post_count": self.count(self.posts.id, self.posts.user_id),
            "follower_count": self.count(columns.follower_id, columns.followed_id),
            f"{following}_count": self.count(columns.followed_id, columns.follower_id),
            "_links": {
                "self": url_for("api.get_user", id=self.id),
                "followers": url_for("api.get_followers", id=self.id),
                following: url_for("api.get_following", id=self.id),
            },
        }

    def count(self, counted, owner):
        return self.db.session.scalar(sa.select(sa.func.count(counted)).where(owner == self.id))
