"""What Prometheus scrapes of HTTP: counts and durations by route template, never by path.

Names follow https://prometheus.io/docs/practices/naming/; the label `service` tells the services of one process apart.
"""

from __future__ import annotations

from functools import lru_cache

from prometheus_client import Counter, Gauge, Histogram

REQUESTS = Counter("kap_http_requests_total", "Requests answered", ("service", "method", "route", "status"))
DURATION = Histogram(
    "kap_http_request_duration_seconds",
    "From the first byte of a request to the last of its answer",
    ("service", "method", "route"),
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
)
IN_FLIGHT = Gauge("kap_http_requests_in_flight", "Requests being answered", ("service",))
FAULTS = Counter("kap_http_faults_total", "Requests that met a fault of the program", ("service", "route"))

_METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"))


@lru_cache(maxsize=4096)
def _counter(service: str, method: str, route: str, status: int) -> Counter:
    return REQUESTS.labels(service, method, route, str(status))


@lru_cache(maxsize=1024)
def _histogram(service: str, method: str, route: str) -> Histogram:
    return DURATION.labels(service, method, route)


def count_request(service: str, method: str, route: str, status: int, seconds: float) -> None:
    """Count one answered request."""
    known = method if method in _METHODS else "other"
    _counter(service, known, route, status).inc()
    _histogram(service, known, route).observe(seconds)
