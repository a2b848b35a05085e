"""The WSGI entry point, and what `flask shell` starts with."""

import sys
from typing import Any

import sqlalchemy as sa
import sqlalchemy.orm as so

from app import create_app, db
from app.models import User
from config import ConfigError

try:
    app = create_app()
except ConfigError as error:
    sys.exit(str(error))  # these lines and status 1, of `flask` and of every server


@app.shell_context_processor
def make_shell_context() -> dict[str, Any]:
    return {"sa": sa, "so": so, "db": db, "User": User}
