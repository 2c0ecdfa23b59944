"""Versions of the app, as batches and rows met them; rows that take another's result; appended sheets."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.add_column("batches", sa.Column("workflow_id", sa.Text))
    op.add_column("batches", sa.Column("appended", sa.Text))
    op.add_column("rows", sa.Column("workflow_id", sa.Text))
    _from_attempts()
    op.add_column("rows", sa.Column("input_hash", sa.Text))
    op.add_column("rows", sa.Column("leader", sa.BigInteger))
    _partial_index("rows_following", ["batch_id", "leader", "state"], "leader IS NOT NULL")
    op.add_column("rows", sa.Column("origin", sa.BigInteger))
    _partial_index("rows_reusing", ["batch_id", "state", "position"], "origin IS NOT NULL")


def _partial_index(name: str, columns: list[str], where: str) -> None:
    op.create_index(name, "rows", columns, sqlite_where=sa.text(where), postgresql_where=sa.text(where))


def _from_attempts() -> None:
    """What the attempts of a former Rowmill told."""
    op.execute(
        "UPDATE rows SET workflow_id = (SELECT a.workflow_id FROM attempts AS a WHERE a.batch_id = rows.batch_id "
        "AND a.position = rows.position AND a.number = rows.tries) WHERE tries > 0"
    )
    op.execute(
        "UPDATE batches SET workflow_id = (SELECT a.workflow_id FROM attempts AS a WHERE a.batch_id = batches.id "
        "AND a.workflow_id IS NOT NULL ORDER BY a.sent_at, a.position LIMIT 1)"
    )
