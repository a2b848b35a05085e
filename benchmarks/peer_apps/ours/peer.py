"""This project, with a route of its own as in docs/build-on-it.md."""

import flask_migrate
from apiflask import APIBlueprint
from apiflask.fields import Integer

from app import create_app, db
from app.api.schemas import Answer, Text
from app.auth import any_auth
from app.models import User

bp = APIBlueprint("me", __name__, url_prefix="/api")


class Me(Answer):
    id = Integer()
    username = Text()


@bp.get("/me")
@bp.auth_required(any_auth, roles=["read"])
@bp.output(Me)
def me():
    credential = any_auth.current_credential()
    return {"id": credential.user_id, "username": credential.username}


app = create_app()
app.register_blueprint(bp)


def make_token():
    with app.app_context():
        flask_migrate.upgrade()
        user = User.register(username="alice", email="alice@example.com", password="correct horse")
        token = user.get_token()
        db.session.commit()
        return token
