"""The factory, the routes, the errors and rows for each table."""

import uuid
from types import SimpleNamespace

import sqlalchemy as sa
from flask import Blueprint, Flask, abort, request, url_for
from flask_httpauth import HTTPBasicAuth, HTTPTokenAuth
from flask_sqlalchemy import SQLAlchemy
from werkzeug.exceptions import HTTPException
from werkzeug.http import HTTP_STATUS_CODES

from tests.tutorial.models import EDITIONS, Models


def create_app(database_url, edition="2024"):
    """Return the application; its tables are there.

    Args:
        database_url: as SQLAlchemy takes it, with the driver.
        edition: a key of `EDITIONS`.
    """
    app = Flask(__name__)
    app.config["SQLALCHEMY_DATABASE_URI"] = database_url
    db = SQLAlchemy(app)
    models = Models(db, EDITIONS[edition])
    app.extensions["tutorial"] = SimpleNamespace(db=db, models=models)
    app.register_blueprint(api(db, models.User, EDITIONS[edition]), url_prefix="/api")
    handle_errors(app, db)
    with app.app_context():
        # What `flask db upgrade` notes: "user tokens", the last migration of each edition.
        sa.Table(
            "alembic_version",
            db.metadata,
            sa.Column("version_num", sa.String(32), primary_key=True),
        )
        db.create_all()
        if not db.session.execute(sa.text("SELECT 1 FROM alembic_version")).first():
            db.session.execute(sa.text("INSERT INTO alembic_version VALUES ('834b1a697901')"))
            db.session.commit()
    return app


def error_response(status, message=None):
    payload = {"error": HTTP_STATUS_CODES.get(status, "Unknown error")}
    if message:
        payload["message"] = message
    return payload, status


def handle_errors(app, db):
    """Answer what no view of the API answers: 404 and 500, but not 405."""

    def answer(status):
        accepted = request.accept_mimetypes
        if accepted["application/json"] >= accepted["text/html"]:
            return error_response(status)
        return f"<!doctype html><title>{HTTP_STATUS_CODES[status]}</title>", status

    @app.errorhandler(404)
    def not_found(_):
        return answer(404)

    @app.errorhandler(500)
    def internal(_):
        db.session.rollback()
        return answer(500)


def api(db, User, edition):  # noqa: N803  a class
    bp = Blueprint("api", __name__)
    if edition.is_strict:  # the edition that also answers other errors of its views in JSON
        bp.register_error_handler(HTTPException, lambda error: error_response(error.code))
    token_auth = add_tokens(bp, db, User)
    add_users(bp, db, User, token_auth)
    add_lists(bp, db, User, token_auth)
    return bp


def add_tokens(bp, db, User):  # noqa: N803  a class
    """Return the `HTTPTokenAuth`."""
    basic_auth, token_auth = HTTPBasicAuth(), HTTPTokenAuth()
    basic_auth.error_handler(error_response)
    token_auth.error_handler(error_response)

    @basic_auth.verify_password
    def verify_password(username, password):
        user = db.session.scalar(sa.select(User).where(User.username == username))
        return user if user and user.check_password(password) else None

    @token_auth.verify_token
    def verify_token(token):
        return User.check_token(token) if token else None

    @bp.post("/tokens")
    @basic_auth.login_required
    def get_token():
        token = basic_auth.current_user().get_token()
        db.session.commit()
        return {"token": token}

    @bp.delete("/tokens")
    @token_auth.login_required
    def revoke_token():
        token_auth.current_user().revoke_token()
        db.session.commit()
        return "", 204

    return token_auth


def refusal_of(db, User, data, user):  # noqa: N803  a class
    """Return the answer to data that would take another user's name or address, or `None`."""
    for field, noun in (("username", "username"), ("email", "email address")):
        if field not in data or data[field] == getattr(user, field):
            continue
        if db.session.scalar(sa.select(User).where(getattr(User, field) == data[field])):
            return error_response(400, f"please use a different {noun}")
    return None


def add_users(bp, db, User, token_auth):  # noqa: N803  a class
    @bp.post("/users")
    def create_user():
        data = request.get_json()
        if "username" not in data or "email" not in data or "password" not in data:
            return error_response(400, "must include username, email and password fields")
        user = User()
        if refused := refusal_of(db, User, data, user):
            return refused
        user.from_dict(data, new_user=True)
        db.session.add(user)
        db.session.commit()
        return user.to_dict(), 201, {"Location": url_for("api.get_user", id=user.id)}

    @bp.put("/users/<int:id>")
    @token_auth.login_required
    def update_user(id):
        if token_auth.current_user().id != id:
            abort(403)
        user = db.get_or_404(User, id)
        data = request.get_json()
        if refused := refusal_of(db, User, data, user):
            return refused
        user.from_dict(data)
        db.session.commit()
        return user.to_dict()

    @bp.get("/users/<int:id>")
    @token_auth.login_required
    def get_user(id):
        return db.get_or_404(User, id).to_dict()


def add_lists(bp, db, User, token_auth):  # noqa: N803  a class
    columns, following = User.followers.c, User.edition.following

    @bp.get("/users")
    @token_auth.login_required
    def get_users():
        return collection(sa.select(User), "api.get_users")

    @bp.get("/users/<int:id>/followers")
    @token_auth.login_required
    def get_followers(id):
        db.get_or_404(User, id)
        query = sa.select(User).join(User.followers, columns.follower_id == User.id)
        return collection(query.where(columns.followed_id == id), "api.get_followers", id=id)

    @bp.get(f"/users/<int:id>/{following}")
    @token_auth.login_required
    def get_following(id):
        db.get_or_404(User, id)
        query = sa.select(User).join(User.followers, columns.followed_id == User.id)
        return collection(query.where(columns.follower_id == id), "api.get_following", id=id)

    def collection(query, endpoint, **variables):
        page = request.args.get("page", 1, type=int)
        per_page = min(request.args.get("per_page", 10, type=int), 100)
        found = db.paginate(query, page=page, per_page=per_page, error_out=False)

        def link(number):
            return url_for(endpoint, page=number, per_page=per_page, **variables)

        return {
            "items": [item.to_dict() for item in found.items],
            "_meta": {
                "page": page,
                "per_page": per_page,
                "total_pages": found.pages,
                "total_items": found.total,
            },
            "_links": {
                "self": link(page),
                "next": link(page + 1) if found.has_next else None,
                "prev": link(page - 1) if found.has_prev else None,
            },
        }


def fill(app):
    """Add three users, of whom Susan has a live token, and rows to each other table.

    Their passwords are "cat", "dog" and "fish".
    """
    db, models = app.extensions["tutorial"].db, app.extensions["tutorial"].models
    with app.app_context():
        users = []
        for name, password in (("susan", "cat"), ("john", "dog"), ("david", "fish")):
            user = models.User()
            data = {"username": name, "email": f"{name}@example.com", "password": password}
            user.from_dict(data | {"about_me": f"I am {name}."}, new_user=True)
            db.session.add(user)
            users.append(user)
        db.session.flush()
        susan, john, david = (user.id for user in users)
        users[0].get_token()
        pairs = [(susan, john), (susan, david), (john, susan)]
        if not models.followers.primary_key:
            pairs.append((susan, john))  # again: nothing forbids it
        rows = [{"follower_id": one, "followed_id": other} for one, other in pairs]
        db.session.execute(sa.insert(models.followers), rows)
        db.session.add_all(
            [
                models.Post(body="a post of Susan", user_id=susan, language="en"),
                models.Post(body="ein Beitrag von Jürgen 🐟", user_id=david, language="de"),
                models.Message(sender_id=susan, recipient_id=john, body="Hello John"),
                models.Notification(name="unread_message_count", user_id=john, payload_json="1"),
                models.Task(
                    id=str(uuid.uuid4()),
                    name="export_posts",
                    description="Exporting posts...",
                    user_id=susan,
                ),
            ]
        )
        db.session.commit()
