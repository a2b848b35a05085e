"""Databases to move in from, and what is in them."""

import os
import secrets
from contextlib import contextmanager

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import close_all_sessions

from app import db
from app.models.columns import SealedToken
from tests import conftest, tutorial

TEST_MYSQL_URL = os.environ.get("TEST_MYSQL_URL")
SOURCES = ["sqlite", "postgresql", "mysql"]


@contextmanager
def empty_source(kind, directory):
    """Yield the URL of an empty database of this kind, as SQLAlchemy takes it."""
    if kind == "sqlite":
        yield f"sqlite:///{directory}/tutorial.db"
    elif kind == "postgresql":
        if not conftest.TEST_DATABASE_URL:
            pytest.skip("TEST_DATABASE_URL names no PostgreSQL database")
        with conftest.postgresql_database() as url:
            yield url
    else:
        if not TEST_MYSQL_URL:
            pytest.skip("TEST_MYSQL_URL names no MySQL or MariaDB database")
        url = sa.make_url(TEST_MYSQL_URL).set(drivername="mysql+pymysql")
        name = f"test_{os.getpid()}_{secrets.token_hex(4)}"
        engine = sa.create_engine(url, poolclass=sa.NullPool)
        with engine.connect() as connection:
            connection.exec_driver_sql(f"CREATE DATABASE {name} CHARACTER SET utf8mb4")
            try:
                yield url.set(database=name).render_as_string(hide_password=False)
            finally:
                connection.exec_driver_sql(f"DROP DATABASE {name}")


class Tutorial:
    """A tutorial application and its database."""

    def __init__(self, url, edition):
        self.url, self.edition = url, edition
        self.app = tutorial.create_app(url, edition)
        self.db = self.app.extensions["tutorial"].db
        self.models = self.app.extensions["tutorial"].models

    def fill(self):
        tutorial.fill(self.app)
        return self

    def run(self, statement, **parameters):
        """Execute SQL, committed; return the rows, or `None`."""
        with self.app.app_context(), self.db.engine.begin() as connection:
            result = connection.execute(sa.text(statement), parameters)
            return result.all() if result.returns_rows else None

    def token_of(self, username):
        query = f"SELECT token FROM {self.user} WHERE username = :name"
        return self.run(query, name=username)[0][0]

    @property
    def user(self):
        """The quoted name of the table."""
        with self.app.app_context():
            return self.db.engine.dialect.identifier_preparer.quote("user")

    def add_users(self, count, *, logged_in=0):
        """Add `user1` and so on; return the live tokens by id. All have the password "cat"."""
        with self.app.app_context():
            model = self.models.User
            first = model(username="x")
            first.set_password("cat")
            users = []
            for number in range(1, count + 1):
                user = model(username=f"user{number}", email=f"user{number}@example.com")
                user.password_hash = first.password_hash
                users.append(user)
            for user in users[:logged_in]:
                user.get_token()
            self.db.session.add_all(users)
            self.db.session.commit()
            return {user.id: user.token for user in users[:logged_in]}

    def close(self):
        with self.app.app_context():
            self.db.session.remove()
            self.db.engine.dispose()


@contextmanager
def tutorial_at(kind, directory, edition="2024"):
    with empty_source(kind, directory) as url:
        application = Tutorial(url, edition)
        try:
            yield application
        finally:
            application.close()
            close_all_sessions()


def rows_at(url):
    """Return all rows of a database of ours: for each table, a sorted list."""
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    found = {}
    with engine.connect() as connection:
        if engine.dialect.name == "postgresql":
            connection.exec_driver_sql("SET TimeZone = 'UTC'")
        for table in db.metadata.sorted_tables:
            columns = [
                sa.type_coerce(column, sa.LargeBinary)
                if isinstance(column.type, SealedToken)
                else column
                for column in table.columns
            ]
            rows = [repr(tuple(row)) for row in connection.execute(sa.select(*columns))]
            found[table.name] = sorted(rows)
    engine.dispose()
    return found
