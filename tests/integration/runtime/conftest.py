"""Two services on PostgreSQL: events of the one are taken in by the other."""

from __future__ import annotations

from shared.testing.databases import *  # noqa: F403 - the fixtures postgres, database, make_database, store
