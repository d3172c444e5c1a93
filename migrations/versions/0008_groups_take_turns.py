"""groups take turns

Revision 0008, after 0007.

Before you land this:
- old processes may still run while it is applied: add columns with a default, drop them one release later;
- a constraint has a name, or batch mode cannot find it again;
- a data change runs in small steps: one transaction over a large table locks every writer out.
"""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

_WAITS = sa.text("released_at IS NULL AND finished_at IS NULL")


def upgrade() -> None:
    _remake("model", "tenant", "group_id", "priority", "id")


def downgrade() -> None:
    _remake("model", "tenant", "priority", "id")


def _remake(*columns: str) -> None:
    op.drop_index("ix_jobs_turn", table_name="jobs")
    op.create_index("ix_jobs_turn", "jobs", list(columns), sqlite_where=_WAITS, postgresql_where=_WAITS)
