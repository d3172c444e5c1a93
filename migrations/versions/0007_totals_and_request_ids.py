"""totals and request ids

Revision 0007, after 0006.

Before you land this:
- old processes may still run while it is applied: add columns with a default, drop them one release later;
- a constraint has a name, or batch mode cannot find it again;
- a data change runs in small steps: one transaction over a large table locks every writer out.
"""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "tallies",
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("model", sa.String(length=200), nullable=False),
        sa.Column("status", sa.String(length=16), nullable=False),
        sa.Column("code", sa.String(length=64), nullable=False),
        *(
            sa.Column(name, sa.BigInteger(), nullable=False)
            for name in ("jobs", "attempts", "losses", "prompt_tokens", "completion_tokens")
        ),
        sa.PrimaryKeyConstraint("kind", "model", "status", "code", name=op.f("pk_tallies")),
    )
    op.add_column("jobs", sa.Column("request_id", sa.String(length=64), nullable=True))
    op.create_index(
        "ix_jobs_ended",
        "jobs",
        ["kind", "model", "status", "error_code", "attempt", "losses", "finished_at"],
        sqlite_where=sa.text("finished_at IS NOT NULL"),
        postgresql_where=sa.text("finished_at IS NOT NULL"),
    )
    op.create_index("ix_results_tokens", "results", ["prompt_tokens", "completion_tokens"])


def downgrade() -> None:
    op.drop_index("ix_results_tokens", table_name="results")
    op.drop_index("ix_jobs_ended", table_name="jobs")
    with op.batch_alter_table("jobs") as batch_op:
        batch_op.drop_column("request_id")
    op.drop_table("tallies")
