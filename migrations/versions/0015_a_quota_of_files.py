"""a quota of files

Revision 0015, after 0014.

Before you land this:
- old processes may still run while it is applied: add columns with a default, drop them one release later;
- a constraint has a name, or batch mode cannot find it again;
- a data change runs in small steps: one transaction over a large table locks every writer out.
"""

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("api_keys", sa.Column("files_quota", sa.BigInteger(), nullable=True))


def downgrade() -> None:
    with op.batch_alter_table("api_keys") as keys:
        keys.drop_column("files_quota")
