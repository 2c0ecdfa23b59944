"""Revisions of the tables, applied from code by rowmill.store.revision when a store is opened."""

# The newest revision in versions/. Kept here so that opening an up-to-date store need not load Alembic (0.4 s).
NEWEST = "0005"
