"""how many of each tenant wait

Revision 0016, after 0015.

Before you land this:
- old processes may still run while it is applied: add columns with a default, drop them one release later;
- a constraint has a name, or batch mode cannot find it again;
- a data change runs in small steps: one transaction over a large table locks every writer out.
"""

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None

_OPEN = sa.text("finished_at IS NULL")
_COLUMNS = ["kind", "model", "status", "held"]


def upgrade() -> None:
    _index([*_COLUMNS, "tenant"])


def downgrade() -> None:
    _index(_COLUMNS)


def _index(columns: list[str]) -> None:
    op.drop_index("ix_jobs_depth", table_name="jobs")
    op.create_index("ix_jobs_depth", "jobs", columns, sqlite_where=_OPEN, postgresql_where=_OPEN)
