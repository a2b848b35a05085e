"""log ins of devices; when and from where the shared log in was used

Revision ID: 0005
Revises: 0004
"""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

BIG_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
USER_COLUMNS = {
    "token_created": sa.DateTime(timezone=True),
    "token_last_used": sa.DateTime(timezone=True),
    "token_address": sa.String(length=64),
    "token_user_agent": sa.String(length=256),
}


def upgrade() -> None:
    for name, type_ in USER_COLUMNS.items():
        op.add_column("user", sa.Column(name, type_, nullable=True))
    op.create_table(
        "device_session",
        sa.Column("id", BIG_ID, nullable=False),
        sa.Column("user_id", BIG_ID, nullable=False),
        sa.Column("device", sa.String(length=64), nullable=False),
        sa.Column("digest", sa.LargeBinary(length=32), nullable=False),
        sa.Column("token_expiration", sa.DateTime(timezone=True), nullable=False),
        sa.Column("created", sa.DateTime(timezone=True), nullable=False),
        sa.Column("last_used", sa.DateTime(timezone=True), nullable=True),
        sa.Column("address", sa.String(length=64), nullable=True),
        sa.Column("user_agent", sa.String(length=256), nullable=True),
        sa.ForeignKeyConstraint(
            ["user_id"], ["user.id"], name="fk_device_session_user_id_user", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_device_session"),
        sa.UniqueConstraint("digest", name="uq_device_session_digest"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_device_session_user_id", "device_session", ["user_id", "token_expiration"])
    op.drop_index("ix_access_token_user_id", "access_token")
    op.create_index("ix_access_token_user_id", "access_token", ["user_id", "token_expiration"])


def downgrade() -> None:
    op.drop_index("ix_access_token_user_id", "access_token")
    op.create_index("ix_access_token_user_id", "access_token", ["user_id", "id"])
    op.drop_table("device_session")
    for name in reversed(USER_COLUMNS):
        op.drop_column("user", name)
