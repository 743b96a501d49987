"""A service as plain as can be, for tests of what runs services."""

from __future__ import annotations

from shared.runtime.app import App
from shared.runtime.service import Service
from shared.runtime.settings import Settings


def create(settings: Settings) -> App:
    """Return a service of patients under whatever name it is started."""
    service = Service(
        name=settings.service,
        title="Plain",
        types=frozenset(("Patient",)),
        consumes=("sessions",) if settings.service == "intake" else (),
    )
    return App(service, settings)
