"""Fixtures of every test; they live in `shared/testing`, which ships with the library."""

from shared.testing.databases import database, make_database, postgres, store

__all__ = ["database", "make_database", "postgres", "store"]
