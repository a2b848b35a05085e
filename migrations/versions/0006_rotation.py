"""the previous text and the limit of an access token

Revision ID: 0006
Revises: 0005
"""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

BIG_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    # As text: Alembic cannot add a column with a foreign key on SQLite, which can.
    type_ = BIG_ID.compile(op.get_bind().dialect)
    op.execute(
        f"ALTER TABLE access_token ADD COLUMN current_id {type_} "
        "CONSTRAINT fk_access_token_current_id_access_token "
        "REFERENCES access_token (id) ON DELETE CASCADE"
    )
    op.add_column("access_token", sa.Column("rate_limit", sa.String(length=64), nullable=True))
    has_current = sa.text("current_id IS NOT NULL")
    op.create_index(
        "ix_access_token_current_id",
        "access_token",
        ["current_id"],
        unique=True,
        sqlite_where=has_current,
        postgresql_where=has_current,
    )


def downgrade() -> None:
    op.execute("DELETE FROM access_token WHERE current_id IS NOT NULL")
    op.drop_index("ix_access_token_current_id", "access_token")
    op.drop_column("access_token", "rate_limit")
    op.drop_column("access_token", "current_id")
