"""API keys

Revision 0009, after 0008.

Before you land this:
- old processes may still run while it is applied: add columns with a default, drop them one release later;
- a constraint has a name, or batch mode cannot find it again;
- a data change runs in small steps: one transaction over a large table locks every writer out.
"""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

_OPEN = sa.text("finished_at IS NULL")


def upgrade() -> None:
    op.create_table(
        "api_keys",
        sa.Column("id", sa.String(length=16), nullable=False),
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("role", sa.String(length=16), nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("expires_at", sa.Double(), nullable=True),
        sa.Column("revoked_at", sa.Double(), nullable=True),
        sa.Column("requests_per_minute", sa.BigInteger(), nullable=True),
        sa.Column("max_running", sa.BigInteger(), nullable=True),
        sa.Column("max_queued", sa.BigInteger(), nullable=True),
        sa.Column("top_priority", sa.BigInteger(), nullable=False),
        sa.Column("models", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_api_keys")),
    )
    op.create_index("ix_jobs_tenant", "jobs", ["tenant", "id"])
    op.create_index("ix_jobs_open", "jobs", ["tenant", "status"], sqlite_where=_OPEN, postgresql_where=_OPEN)


def downgrade() -> None:
    op.drop_index("ix_jobs_open", table_name="jobs")
    op.drop_index("ix_jobs_tenant", table_name="jobs")
    op.drop_table("api_keys")
