"""Files: which are needed, uploaded, put out."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.create_table(
        "batch_files",
        sa.Column("batch_id", sa.Text, sa.ForeignKey("batches.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("sha256", sa.Text, primary_key=True),
    )
    op.create_table(
        "uploads",
        sa.Column("app_id", sa.Text, sa.ForeignKey("apps.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("slot_user", sa.Text, primary_key=True),
        sa.Column("sha256", sa.Text, primary_key=True),
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("file_id", sa.Text, nullable=False),
        sa.Column("uploaded_at", sa.Double, nullable=False),
    )
    op.create_table(
        "output_files",
        sa.Column("batch_id", sa.Text, primary_key=True),
        sa.Column("position", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("place", sa.Text, primary_key=True),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("sha256", sa.Text),
        sa.Column("size", sa.BigInteger),
        sa.Column("error", sa.Text),
        sa.ForeignKeyConstraint(["batch_id", "position"], ["rows.batch_id", "rows.position"], ondelete="CASCADE"),
    )
