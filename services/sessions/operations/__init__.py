"""Sessions' operations: before, at and after the dose, and the ledger of controlled substances."""

from __future__ import annotations

from services.sessions.operations.dosing import dosing_operations
from services.sessions.operations.feeds import feed_operations
from services.sessions.operations.leaving import leaving_operations
from services.sessions.operations.psychotherapy import psychotherapy_operations
from services.sessions.operations.rems import rems_operations
from services.sessions.operations.substances import substance_operations
from services.sessions.operations.summary import summary_operations
from services.sessions.setting import Setting
from shared.runtime.service import Operation


def operations(setting: Setting) -> tuple[Operation, ...]:
    """Return sessions' operations under a policy."""
    return (
        *dosing_operations(setting),
        *feed_operations(setting),
        *leaving_operations(setting),
        *rems_operations(setting),
        *substance_operations(setting),
        *psychotherapy_operations(setting),
        *summary_operations(setting),
    )
