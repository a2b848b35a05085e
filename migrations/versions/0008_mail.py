"""verified addresses, and the outbox

Revision ID: 0008
Revises: 0007
"""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

BIG_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.add_column("user", sa.Column("verified_email", sa.String(length=254), nullable=True))
    op.add_column("user", sa.Column("new_email", sa.String(length=254), nullable=True))
    op.create_table(
        "outgoing_mail",
        sa.Column("id", BIG_ID, nullable=False),
        sa.Column("kind", sa.String(length=32), nullable=False),
        sa.Column("user_id", BIG_ID, nullable=True),
        sa.Column("recipient", sa.String(length=254), nullable=True),
        sa.Column("details", sa.JSON(), nullable=False),
        sa.Column("message_id", sa.String(length=32), nullable=False),
        sa.Column("created", sa.DateTime(timezone=True), nullable=False),
        sa.Column("due", sa.DateTime(timezone=True), nullable=True),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("error", sa.String(length=500), nullable=True),
        sa.ForeignKeyConstraint(
            ["user_id"], ["user.id"], name="fk_outgoing_mail_user_id_user", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_outgoing_mail"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_outgoing_mail_user_id", "outgoing_mail", ["user_id"])
    op.create_index("ix_outgoing_mail_due", "outgoing_mail", ["due"])


def downgrade() -> None:
    op.drop_table("outgoing_mail")
    op.drop_column("user", "new_email")
    op.drop_column("user", "verified_email")
