"""Fixtures of the tests of tokens."""

from tests.integration.security.clinic import clinic

__all__ = ["clinic"]
