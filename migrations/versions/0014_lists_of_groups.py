"""lists of groups

Revision 0014, after 0013.

Before you land this:
- old processes may still run while it is applied: add columns with a default, drop them one release later;
- a constraint has a name, or batch mode cannot find it again;
- a data change runs in small steps: one transaction over a large table locks every writer out.
"""

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None

_GROUPED = sa.text("group_id IS NOT NULL")


def upgrade() -> None:
    op.drop_index("ix_jobs_group_id", table_name="jobs")
    for name, columns in (
        ("ix_jobs_group_id", ["group_id", "tenant", "status", "id"]),
        ("ix_jobs_groups", ["tenant", "group_id", "id"]),
    ):
        op.create_index(name, "jobs", columns, sqlite_where=_GROUPED, postgresql_where=_GROUPED)


def downgrade() -> None:
    op.drop_index("ix_jobs_groups", table_name="jobs")
    op.drop_index("ix_jobs_group_id", table_name="jobs")
    op.create_index("ix_jobs_group_id", "jobs", ["group_id", "status"])
