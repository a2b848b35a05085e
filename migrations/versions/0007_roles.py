"""roles of users; user names that were given up; search for the beginning of a name

Revision ID: 0007
Revises: 0006
"""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

BIG_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    # With a default in the database: servers of the previous release register users.
    roles = sa.Column("roles", sa.String(length=512), server_default="", nullable=False)
    op.add_column("user", roles)
    op.create_table(
        "reserved_name",
        sa.Column("username", sa.String(length=64), nullable=False),
        sa.Column("user_id", BIG_ID, nullable=False),
        sa.Column("until", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["user_id"], ["user.id"], name="fk_reserved_name_user_id_user", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("username", name="pk_reserved_name"),
    )
    op.create_index("ix_reserved_name_user_id", "reserved_name", ["user_id"])
    op.create_index("ix_reserved_name_until", "reserved_name", ["until"])
    op.create_index(
        "ix_user_deactivated_at",
        "user",
        ["deactivated_at"],
        postgresql_where=sa.text("deactivated_at IS NOT NULL"),
        sqlite_where=sa.text("deactivated_at IS NOT NULL"),
    )
    replace_indexes(" text_pattern_ops")


def replace_indexes(operators: str) -> None:
    """Make the unique indexes anew (PostgreSQL)."""
    if op.get_bind().dialect.name != "postgresql":
        return
    for name in ("username", "email"):
        columns = [sa.text(f"lower({name}){operators}")]
        op.drop_index(f"ix_user_{name}", "user")
        op.create_index(f"ix_user_{name}", "user", columns, unique=True)


def downgrade() -> None:
    replace_indexes("")
    op.drop_index("ix_user_deactivated_at", "user")
    op.drop_table("reserved_name")
    op.drop_column("user", "roles")
