"""flask-jwt-extended: the user is whoever the claims of the token say."""

import os
from datetime import timedelta

from flask import Flask
from flask_jwt_extended import (
    JWTManager,
    create_access_token,
    get_jwt,
    get_jwt_identity,
    jwt_required,
)

app = Flask(__name__)
app.config["JWT_SECRET_KEY"] = os.environ["SECRET_KEY"]
app.config["JWT_ACCESS_TOKEN_EXPIRES"] = timedelta(hours=1)
JWTManager(app)


@app.get("/api/me")
@jwt_required()
def me():
    return {"id": int(get_jwt_identity()), "username": get_jwt()["username"]}


def make_token():
    with app.app_context():
        return create_access_token("1", additional_claims={"username": "alice"})
