"""Fixtures of every test; they live in `shared/testing`, which ships with the library."""

from hypothesis import HealthCheck, settings

from shared.testing.brokers import apache_kafka, broker, kafka, memory_broker
from shared.testing.databases import database, make_database, postgres, store
from shared.testing.tiers import pytest_collection_modifyitems, pytest_report_header, pytest_terminal_summary
from tests.feature_map import pytest_configure
from tests.hl7 import hl7_validator

__all__ = [
    "apache_kafka",
    "broker",
    "database",
    "hl7_validator",
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

patient = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
"""How fast examples come says how busy the machine is, and nothing of what they hold to."""

settings.register_profile("merge", patient)
settings.register_profile("fast", patient, max_examples=settings.default.max_examples // 4)
"""For `./kap test --fast`, between two thoughts; what is merged is tried with all of them."""

settings.load_profile("merge")
