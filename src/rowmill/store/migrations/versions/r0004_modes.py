"""Conversations of several rows, and runs that wait for a person."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    for name in ("conversation", "conversation_id", "asks"):
        op.add_column("rows", sa.Column(name, sa.Text))
    _partial_index(
        "rows_by_conversation",
        "rows",
        ["batch_id", "conversation", "position", "state"],
        "conversation IS NOT NULL",
    )
    _partial_index("attempts_to_check", "attempts", ["batch_id", "position"], "state IN ('indeterminate', 'paused')")


def _partial_index(name: str, table: str, columns: list[str], where: str) -> None:
    op.create_index(name, table, columns, sqlite_where=sa.text(where), postgresql_where=sa.text(where))
