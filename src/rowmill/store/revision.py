"""Brings a store to the newest revision of its tables, in one transaction, or refuses one from a newer Rowmill."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import inspect, text

from rowmill.domain.errors import StoreError
from rowmill.store import migrations

if TYPE_CHECKING:
    from alembic.config import Config
    from sqlalchemy import Connection


def current_revision(conn: Connection, place: str) -> str | None:
    """None for an empty store. Raises for a database that is not Rowmill's."""
    tables = set(inspect(conn).get_table_names())
    if "alembic_version" not in tables:
        if tables:
            raise StoreError("store_damaged", path=place, detail="a database, but not one of Rowmill's")
        return None
    found = conn.execute(text("SELECT version_num FROM alembic_version")).scalar()
    return None if found is None else str(found)


def check_revision(conn: Connection, place: str) -> bool:
    """True if the store is up to date. Raises store_too_new for a revision that this version does not know."""
    found = current_revision(conn, place)
    if found == migrations.NEWEST:
        return True
    if found is not None and found not in _known_revisions():
        raise StoreError("store_too_new", path=place, revision=found, known=migrations.NEWEST)
    return False


def migrate(conn: Connection, place: str) -> None:
    """Within the caller's transaction. Another process may have come first: the revision is looked at again."""
    if check_revision(conn, place):
        return
    from alembic import command  # noqa: PLC0415  only for a new or old store: see migrations.NEWEST

    config = _config()
    config.attributes["connection"] = conn
    command.upgrade(config, "head")


def _known_revisions() -> set[str]:
    from alembic.script import ScriptDirectory  # noqa: PLC0415  as above

    return {script.revision for script in ScriptDirectory.from_config(_config()).walk_revisions()}


def _config() -> Config:
    from alembic.config import Config  # noqa: PLC0415  as above

    config = Config()
    config.set_main_option("script_location", str(Path(migrations.__file__).parent).replace("%", "%%"))
    return config
