"""flask-jwt-extended with "automatic user loading": each request reads the user."""

import os
from datetime import timedelta

import sqlalchemy as sa
import sqlalchemy.orm as so
from flask import Flask
from flask_jwt_extended import JWTManager, create_access_token, current_user, jwt_required
from flask_sqlalchemy import SQLAlchemy

app = Flask(__name__)
app.config["JWT_SECRET_KEY"] = os.environ["SECRET_KEY"]
app.config["JWT_ACCESS_TOKEN_EXPIRES"] = timedelta(hours=1)
app.config["SQLALCHEMY_DATABASE_URI"] = os.environ["DATABASE_URL"].replace(
    "postgresql://", "postgresql+psycopg2://"
)
jwt = JWTManager(app)
db = SQLAlchemy(app)


class User(db.Model):
    id: so.Mapped[int] = so.mapped_column(primary_key=True)
    username: so.Mapped[str] = so.mapped_column(sa.String(64), index=True, unique=True)
    password_hash: so.Mapped[str | None] = so.mapped_column(sa.String(256))


@jwt.user_identity_loader
def user_identity_lookup(user):
    return str(user.id)


@jwt.user_lookup_loader
def user_lookup_callback(_jwt_header, jwt_data):
    return db.session.get(User, int(jwt_data["sub"]))


@app.get("/api/me")
@jwt_required()
def me():
    return {"id": current_user.id, "username": current_user.username}


def make_token():
    with app.app_context():
        db.create_all()
        user = User(username="alice")
        db.session.add(user)
        db.session.commit()
        return create_access_token(user)
