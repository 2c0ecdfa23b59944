"""Alembic's entry. The connection, with its transaction begun, is handed in: all revisions take effect or none."""

from __future__ import annotations

from alembic import context

context.configure(
    connection=context.config.attributes["connection"],
    transactional_ddl=True,
    render_as_batch=True,
)
context.run_migrations()
