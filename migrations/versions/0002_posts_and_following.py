"""posts and following

Revision ID: 0002
Revises: 0001
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

COUNTS = ("post_count", "follower_count", "following_count")
BIG_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    for name in COUNTS:
        op.add_column("user", sa.Column(name, sa.Integer(), server_default="0", nullable=False))
    if op.get_context().dialect.name == "postgresql":
        op.drop_index("ix_user_token", "user")
        partial = sa.text("token IS NOT NULL")
        op.create_index("ix_user_token", "user", ["token"], unique=True, postgresql_where=partial)
    op.create_table(
        "post",
        sa.Column("id", BIG_ID, nullable=False),
        sa.Column("body", sa.String(length=140), nullable=False),
        sa.Column("timestamp", sa.DateTime(timezone=True), nullable=False),
        sa.Column("user_id", BIG_ID, nullable=False),
        sa.ForeignKeyConstraint(["user_id"], ["user.id"], name="fk_post_user_id_user"),
        sa.PrimaryKeyConstraint("id", name="pk_post"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_post_user_id", "post", ["user_id", "id"])
    op.create_table(
        "followers",
        sa.Column("follower_id", BIG_ID, nullable=False),
        sa.Column("followed_id", BIG_ID, nullable=False),
        sa.ForeignKeyConstraint(
            ["follower_id"], ["user.id"], name="fk_followers_follower_id_user"
        ),
        sa.ForeignKeyConstraint(
            ["followed_id"], ["user.id"], name="fk_followers_followed_id_user"
        ),
        sa.PrimaryKeyConstraint("follower_id", "followed_id", name="pk_followers"),
    )
    op.create_index("ix_followers_followed_id", "followers", ["followed_id", "follower_id"])
    op.create_table(
        "total",
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("value", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_total"),
    )
    op.execute("INSERT INTO total (name, value) SELECT 'user', count(*) FROM \"user\"")


def downgrade() -> None:
    op.drop_table("total")
    op.drop_table("followers")
    op.drop_table("post")
    if op.get_context().dialect.name == "postgresql":
        op.drop_index("ix_user_token", "user")
        op.create_index("ix_user_token", "user", ["token"], unique=True)
    for name in COUNTS:
        op.drop_column("user", name)
