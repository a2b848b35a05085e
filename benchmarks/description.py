"""What describing a route costs: CPU time per request, with the decorators and without.

    python -m benchmarks.description

Asks this process for the same answers from the same database in turns: once of
the routes as they are, whose decorators validate, write and describe, and once of
routes that write the same JSON by hand. Prints the median of the ratios.
"""

import statistics
import tempfile
import time

import flask_migrate
from flask import Response, abort, request, url_for
from werkzeug.test import EnvironBuilder

from app import create_app, db
from app.auth import any_auth
from app.http.headers import path_to
from app.models import User
from config import Config

ROUNDS, REQUESTS = 15, 300
NO_STORE = {"Cache-Control": "no-store"}


def user_as_json(user):
    is_own = user.id == any_auth.current_credential().user_id
    email = {"email": user.email} if is_own else {}
    roles = {"roles": user.roles} if is_own else {}
    return {
        "id": user.id,
        "username": user.username,
        **email,
        "about_me": user.about_me,
        "last_seen": user.last_seen.isoformat(),
        **roles,
        "post_count": user.post_count,  # microblog
        "follower_count": user.follower_count,  # microblog
        "following_count": user.followed_count,  # microblog
        "_links": {
            "self": path_to("users.get_user", id=user.id),
            "followers": path_to("following.get_followers", id=user.id),  # microblog
            "following": path_to("following.get_following", id=user.id),  # microblog
            "avatar": user.avatar(128),
        },
    }


def me_by_hand():
    return user_as_json(any_auth.current_user())


def token_by_hand():
    credential = any_auth.current_credential()
    if not set(request.args.get("scope", "").split()) <= set(credential.scopes):
        abort(403)
    user_id, username = credential.user_id, credential.username
    answer = {
        "token_type": "Bearer",
        "scope": credential.scope,
        "expires_in": credential.seconds_left,
        "user": {"id": user_id, "username": username},
        "roles": list(credential.roles),
    }
    headers = {
        "X-User-Id": user_id,
        "X-Username": username,
        "X-Scope": credential.scope,
        "X-Roles": " ".join(credential.roles),
    }
    return answer, NO_STORE | headers


def users_by_hand():
    page = User.page(int(request.args.get("page", 1)), int(request.args.get("per_page", 10)))
    links = {"self": page.number, "next": page.next_number, "prev": page.prev_number}
    return {
        "items": [user_as_json(user) for user in page.items],
        "_meta": {
            "page": page.number,
            "per_page": page.per_page,
            "total_pages": page.pages,
            "total_items": page.total,
        },
        "_links": {
            name: number and url_for("users.get_users", page=number, per_page=page.per_page)
            for name, number in links.items()
        },
    }


BY_HAND = {
    "/api/tokens": token_by_hand,
    "/api/users/me": me_by_hand,
    "/api/users": users_by_hand,
}


def main():
    with tempfile.TemporaryDirectory() as folder:

        class BenchmarkConfig(Config):
            SQLALCHEMY_DATABASE_URI = f"sqlite:///{folder}/app.db"
            SECRET_KEY = "of no use anywhere else"

        app = create_app(BenchmarkConfig)
        for path, view in BY_HAND.items():
            protected = any_auth.login_required(role=["read"])(view)
            app.add_url_rule(f"/by-hand{path}", view_func=protected)
        with app.app_context():
            flask_migrate.upgrade()
            for number in range(10):
                name = f"alice{number}"
                user = User.register(
                    username=name, email=f"{name}@example.com", password="correct horse"
                )
            headers = {"Authorization": f"Bearer {user.get_token()}"}
            db.session.commit()

        def environ(path):
            return EnvironBuilder(path, headers=headers).get_environ()

        def seconds(environ):
            start = time.process_time()
            for _ in range(REQUESTS):
                # Without a client, whose own work would hide some of the difference.
                app(environ.copy(), lambda *_: None).close()
            return time.process_time() - start

        for path in BY_HAND:
            described, by_hand = environ(path), environ(f"/by-hand{path}")
            answers = [Response.from_app(app, one.copy()).json for one in (described, by_hand)]
            assert answers[0] == answers[1]
            ratios = [seconds(described) / seconds(by_hand) for _ in range(ROUNDS)]
            print(f"GET {path:14}{statistics.median(ratios):.2f}")
        with app.app_context():
            db.engine.dispose()


main()
