"""passwords changed, users deactivated, known sources

Revision ID: 0003
Revises: 0002
"""

import click
import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

BIG_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    for name in ("password_changed_at", "deactivated_at"):
        op.add_column("user", sa.Column(name, sa.DateTime(timezone=True), nullable=True))
    op.create_table(
        "known_source",
        sa.Column("user_id", BIG_ID, nullable=False),
        sa.Column("source", sa.String(length=64), nullable=False),
        sa.Column("last_log_in", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["user_id"], ["user.id"], name="fk_known_source_user_id_user", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("user_id", "source", name="pk_known_source"),
    )


def downgrade() -> None:
    deactivated = sa.text('SELECT count(*) FROM "user" WHERE deactivated_at IS NOT NULL')
    if op.get_bind().scalar(deactivated):
        # They would be back on every route, and in no count.
        raise click.ClickException("there are deactivated users; `flask users activate` them first")
    op.drop_table("known_source")
    for name in ("deactivated_at", "password_changed_at"):
        op.drop_column("user", name)
