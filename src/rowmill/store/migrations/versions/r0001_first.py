"""The first tables."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    _runner()
    _apps()
    _batches()
    _rows()
    _attempts()


def _runner() -> None:
    table = op.create_table(
        "runner",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("fence", sa.BigInteger, nullable=False),
        sa.Column("owner", sa.Text),
        sa.Column("taken_at", sa.Double),
    )
    op.bulk_insert(table, [{"id": 1, "fence": 0}])


def _apps() -> None:
    op.create_table(
        "apps",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("base_url", sa.Text, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("mode", sa.Text, nullable=False),
        sa.Column("version", sa.Text),
        sa.Column("sealed_key", sa.LargeBinary, nullable=False),
        sa.Column("key_hint", sa.Text, nullable=False),
    )


def _batches() -> None:
    op.create_table(
        "batches",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("app_id", sa.Text, sa.ForeignKey("apps.id"), nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("reason", sa.Text),
        sa.Column("detail", sa.Text),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("started_at", sa.Double),
        sa.Column("ended_at", sa.Double),
        sa.Column("sheet_path", sa.Text, nullable=False),
        sa.Column("sheet_name", sa.Text, nullable=False),
        sa.Column("sheet_digest", sa.Text, nullable=False),
        sa.Column("settings", sa.Text, nullable=False),
        sa.Column("headers", sa.Text, nullable=False),
        sa.Column("mapping", sa.Text, nullable=False),
        sa.Column("form", sa.Text, nullable=False),
    )


def _rows() -> None:
    op.create_table(
        "rows",
        sa.Column("batch_id", sa.Text, sa.ForeignKey("batches.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("position", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("number", sa.BigInteger, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("tries", sa.Integer, nullable=False, server_default="0"),
        sa.Column("refused", sa.Integer, nullable=False, server_default="0"),
        sa.Column("due_at", sa.Double),
        sa.Column("tokens", sa.BigInteger),
        sa.Column("seconds", sa.Double),
        sa.Column("price", sa.Text),
        sa.Column("currency", sa.Text),
        sa.Column("run_id", sa.Text),
        sa.Column("cause", sa.Text),
        sa.Column("error", sa.Text),
        sa.Column("inputs", sa.Text, nullable=False),
        sa.Column("cells", sa.Text, nullable=False),
        sa.Column("outputs", sa.Text),
    )
    op.create_index("rows_by_state", "rows", ["batch_id", "state", "position", "tokens"])
    _partial_index("rows_waiting", "rows", ["batch_id", "due_at", "position"], "state = 'waiting'")
    _partial_index("rows_by_cause", "rows", ["batch_id", "cause", "state"], "cause IS NOT NULL")


def _attempts() -> None:
    op.create_table(
        "attempts",
        sa.Column("batch_id", sa.Text, primary_key=True),
        sa.Column("position", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("slot", sa.Integer, nullable=False),
        sa.Column("slot_user", sa.Text, nullable=False),
        sa.Column("sent_at", sa.Double, nullable=False),
        sa.Column("ahead", sa.Double, nullable=False, server_default="0"),
        sa.Column("ended_at", sa.Double),
        sa.Column("cause", sa.Text),
        sa.Column("run_id", sa.Text),
        sa.Column("task_id", sa.Text),
        sa.Column("workflow_id", sa.Text),
        sa.Column("conversation_id", sa.Text),
        sa.Column("message_id", sa.Text),
        sa.Column("status", sa.Text),
        sa.Column("tokens", sa.BigInteger),
        sa.Column("seconds", sa.Double),
        sa.Column("price", sa.Text),
        sa.Column("currency", sa.Text),
        sa.Column("damaged", sa.Boolean),
        sa.Column("error", sa.Text),
        sa.Column("outputs", sa.Text),
        sa.ForeignKeyConstraint(["batch_id", "position"], ["rows.batch_id", "rows.position"], ondelete="CASCADE"),
    )
    _partial_index(
        "attempts_open", "attempts", ["batch_id", "slot"], "state IN ('attached', 'indeterminate', 'intent', 'unknown')"
    )
    op.create_index("attempts_by_user", "attempts", ["slot_user", "batch_id"])


def _partial_index(name: str, table: str, columns: list[str], where: str) -> None:
    op.create_index(name, table, columns, sqlite_where=sa.text(where), postgresql_where=sa.text(where))
