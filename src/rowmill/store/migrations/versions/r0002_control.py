"""What pausing, stopping and spending limits need."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.add_column("batches", sa.Column("touched", sa.Integer, nullable=False, server_default="0"))
    op.add_column("batches", sa.Column("spent_before", sa.Text))
