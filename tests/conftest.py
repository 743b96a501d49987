"""Fixtures of every test; they live in `shared/testing`, which ships with the library."""

from shared.testing.brokers import apache_kafka, broker, kafka, memory_broker
from shared.testing.databases import database, make_database, postgres, store
from shared.testing.tiers import pytest_collection_modifyitems, pytest_report_header, pytest_terminal_summary
from tests.feature_map import pytest_configure

__all__ = [
    "apache_kafka",
    "broker",
    "database",
    "kafka",
    "make_database",
    "memory_broker",
    "postgres",
    "pytest_collection_modifyitems",
    "pytest_configure",
    "pytest_report_header",
    "pytest_terminal_summary",
    "store",
]
