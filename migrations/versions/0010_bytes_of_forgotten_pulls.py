"""bytes of forgotten pulls

Revision 0010, after 0009.

Before you land this:
- old processes may still run while it is applied: add columns with a default, drop them one release later;
- a constraint has a name, or batch mode cannot find it again;
- a data change runs in small steps: one transaction over a large table locks every writer out.
"""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("tallies", sa.Column("pulled_bytes", sa.BigInteger(), nullable=False, server_default="0"))


def downgrade() -> None:
    op.drop_column("tallies", "pulled_bytes")
