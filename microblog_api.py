"""The WSGI entry point, and what `flask shell` starts with."""

from typing import Any

import sqlalchemy as sa
import sqlalchemy.orm as so

from app import create_app, db
from app.models import User

app = create_app()


@app.shell_context_processor
def make_shell_context() -> dict[str, Any]:
    return {"sa": sa, "so": so, "db": db, "User": User}
