"""The tables. A change here needs a revision in migrations/versions; a test compares the two.

Large columns stand last: SQLite reads a row's small ones without touching the pages of the large.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Double,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    and_,
    text,
)

from rowmill.store.text import Cells, ExactJson, ExactText

metadata = MetaData()

runner = Table(
    "runner",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("fence", BigInteger, nullable=False),
    Column("owner", ExactText),
    Column("taken_at", Double),
)

apps = Table(
    "apps",
    metadata,
    Column("id", ExactText, primary_key=True),
    Column("base_url", ExactText, nullable=False),
    Column("name", ExactText, nullable=False),
    Column("mode", Text, nullable=False),
    Column("version", ExactText),
    Column("sealed_key", LargeBinary, nullable=False),
    Column("key_hint", ExactText, nullable=False),
)

batches = Table(
    "batches",
    metadata,
    Column("id", ExactText, primary_key=True),
    Column("app_id", ExactText, ForeignKey("apps.id"), nullable=False),
    Column("state", Text, nullable=False),
    Column("reason", ExactText),
    Column("detail", ExactText),
    Column("created_at", Double, nullable=False),
    Column("started_at", Double),
    Column("ended_at", Double),
    Column("sheet_path", ExactText, nullable=False),
    Column("sheet_name", ExactText, nullable=False),
    Column("sheet_digest", ExactText, nullable=False),
    Column("settings", ExactJson, nullable=False),
    Column("headers", ExactJson, nullable=False),
    Column("mapping", ExactJson, nullable=False),
    Column("form", ExactJson, nullable=False),
    # How often rows were put back by hand, and what had been spent when a person last started the batch.
    Column("touched", Integer, nullable=False, server_default="0"),
    Column("spent_before", ExactJson),
    Column("workflow_id", ExactText),
    Column("appended", ExactJson),
)

rows = Table(
    "rows",
    metadata,
    Column("batch_id", ExactText, ForeignKey("batches.id", ondelete="CASCADE"), primary_key=True),
    Column("position", BigInteger, primary_key=True, autoincrement=False),
    Column("number", BigInteger, nullable=False),
    Column("state", Text, nullable=False),
    Column("tries", Integer, nullable=False, server_default="0"),
    Column("refused", Integer, nullable=False, server_default="0"),
    Column("due_at", Double),
    Column("tokens", BigInteger),
    Column("seconds", Double),
    Column("price", ExactText),
    Column("currency", ExactText),
    Column("run_id", ExactText),
    Column("cause", ExactText),
    Column("error", ExactText),
    # Which conversation of the sheet it is a turn of, and Dify's id of it.
    Column("conversation", ExactText),
    Column("conversation_id", ExactText),
    Column("inputs", ExactJson, nullable=False),
    Column("cells", Cells, nullable=False),
    Column("outputs", ExactText),
    Column("asks", ExactText),
    # Added later, so they stand behind the large ones: whoever looks for many rows by these goes by an index.
    Column("workflow_id", ExactText),
    Column("input_hash", Text),
    Column("leader", BigInteger),
    Column("origin", BigInteger),
    # One index answers both the counts (it holds all that they need) and what may start next.
    Index("rows_by_state", "batch_id", "state", "position", "tokens"),
    Index(
        "rows_waiting",
        "batch_id",
        "due_at",
        "position",
        sqlite_where=text("state = 'waiting'"),
        postgresql_where=text("state = 'waiting'"),
    ),
    Index(
        "rows_by_conversation",
        "batch_id",
        "conversation",
        "position",
        "state",
        sqlite_where=text("conversation IS NOT NULL"),
        postgresql_where=text("conversation IS NOT NULL"),
    ),
    Index(
        "rows_by_cause",
        "batch_id",
        "cause",
        "state",
        sqlite_where=text("cause IS NOT NULL"),
        postgresql_where=text("cause IS NOT NULL"),
    ),
    Index(
        "rows_following",
        "batch_id",
        "leader",
        "state",
        sqlite_where=text("leader IS NOT NULL"),
        postgresql_where=text("leader IS NOT NULL"),
    ),
    Index(
        "rows_reusing",
        "batch_id",
        "state",
        "position",
        sqlite_where=text("origin IS NOT NULL"),
        postgresql_where=text("origin IS NOT NULL"),
    ),
)

TO_CHECK = "state IN ('indeterminate', 'paused')"
OPEN_STATES = "state IN ('attached', 'indeterminate', 'intent', 'unknown')"

attempts = Table(
    "attempts",
    metadata,
    Column("batch_id", ExactText, primary_key=True),
    Column("position", BigInteger, primary_key=True, autoincrement=False),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("state", Text, nullable=False),
    Column("slot", Integer, nullable=False),
    Column("slot_user", ExactText, nullable=False),
    Column("sent_at", Double, nullable=False),
    Column("ahead", Double, nullable=False, server_default="0"),
    Column("ended_at", Double),
    Column("cause", ExactText),
    Column("run_id", ExactText),
    Column("task_id", ExactText),
    Column("workflow_id", ExactText),
    Column("conversation_id", ExactText),
    Column("message_id", ExactText),
    Column("status", Text),
    Column("tokens", BigInteger),
    Column("seconds", Double),
    Column("price", ExactText),
    Column("currency", ExactText),
    Column("damaged", Boolean),
    Column("error", ExactText),
    # Only of an attempt that its row no longer waits for: the others' stand in the row.
    Column("outputs", ExactText),
    ForeignKeyConstraint(["batch_id", "position"], ["rows.batch_id", "rows.position"], ondelete="CASCADE"),
    Index("attempts_open", "batch_id", "slot", sqlite_where=text(OPEN_STATES), postgresql_where=text(OPEN_STATES)),
    Index("attempts_to_check", "batch_id", "position", sqlite_where=text(TO_CHECK), postgresql_where=text(TO_CHECK)),
    # Not the batch first: SQLite would take it where the open ones are asked for.
    Index("attempts_by_user", "slot_user", "batch_id"),
)

# Which kept files a batch needs: one that no batch needs can be removed.
batch_files = Table(
    "batch_files",
    metadata,
    Column("batch_id", ExactText, ForeignKey("batches.id", ondelete="CASCADE"), primary_key=True),
    Column("sha256", Text, primary_key=True),
)

uploads = Table(
    "uploads",
    metadata,
    Column("app_id", ExactText, ForeignKey("apps.id", ondelete="CASCADE"), primary_key=True),
    Column("slot_user", ExactText, primary_key=True),
    Column("sha256", Text, primary_key=True),
    Column("name", ExactText, primary_key=True),
    Column("file_id", ExactText, nullable=False),
    Column("uploaded_at", Double, nullable=False),
)

output_files = Table(
    "output_files",
    metadata,
    Column("batch_id", ExactText, primary_key=True),
    Column("position", BigInteger, primary_key=True, autoincrement=False),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("place", ExactText, primary_key=True),
    Column("name", ExactText, nullable=False),
    Column("sha256", Text),
    Column("size", BigInteger),
    Column("error", ExactText),
    ForeignKeyConstraint(["batch_id", "position"], ["rows.batch_id", "rows.position"], ondelete="CASCADE"),
)

# Of a row: the one that it follows, and the one whose result it takes from an earlier batch.
leading = rows.alias("leading")
is_led = and_(leading.c.batch_id == rows.c.batch_id, leading.c.position == rows.c.leader)
origin = rows.alias("origin")
