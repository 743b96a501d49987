"""How every client of Kafka connects: one value, handed down."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

MAX_REQUEST_BYTES = 8 * 1024 * 1024
"""The largest record or batch a producer sends; brokers and topics have the same as `max.message.bytes`."""


@dataclass(frozen=True, slots=True)
class KafkaConnection:
    """Where Kafka is, and who connects.

    Attributes:
        bootstrap: ``host:port``, several with commas between.
        client_id: for the broker's own logs and quotas: ``kap-intake``.
        request_seconds: after which a request to a broker counts as lost.

    """

    bootstrap: str
    client_id: str
    request_seconds: float = 15.0

    def options(self) -> dict[str, Any]:
        """Return the arguments that aiokafka's producer, consumer and admin client have in common."""
        return {
            "bootstrap_servers": self.bootstrap,
            "client_id": self.client_id,
            "request_timeout_ms": int(self.request_seconds * 1000),
            "retry_backoff_ms": 200,
            "metadata_max_age_ms": 60_000,
        }
