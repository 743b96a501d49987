"""Structured logs: one JSON object a line on standard error, and never a word about a patient.

What is logged is chosen, not filtered: requests by route template (``/fhir/{type}/{id}``), never by path or query;
errors by the type of the exception and where it was raised, never by its message, since a driver's message quotes
values. Other libraries' log records keep their level and logger; their text is kept only from loggers that are known to
speak of connections and not of contents.
"""

from __future__ import annotations

import logging
import sys
import traceback
from typing import TYPE_CHECKING, BinaryIO

import msgspec
import structlog

if TYPE_CHECKING:
    from structlog.typing import EventDict, Processor, WrappedLogger

_SPEAKS_OF_CONNECTIONS = ("aiokafka", "kafka", "uvicorn", "shared", "services", "py.warnings")
_FRAMES = 12


def frames_of(error: BaseException) -> list[str]:
    """Return where `error` was raised, ``file:line function``, innermost last, without any value."""
    return [
        f"{frame.filename.rpartition('site-packages/')[2]}:{frame.lineno} {frame.name}"
        for frame in traceback.extract_tb(error.__traceback__)[-_FRAMES:]
    ]


def fault(error: BaseException) -> dict[str, object]:
    """Return what may be logged of an unexpected error: its type, the types behind it, and where it was raised.

    Of an error of PostgreSQL also its SQLSTATE, which is a code and holds no values.
    """
    chain: list[BaseException] = []
    current: BaseException | None = error
    while current is not None and current not in chain:
        chain.append(current)
        current = current.__cause__ or current.__context__
    found: dict[str, object] = {
        "error": " < ".join(f"{type(one).__module__}.{type(one).__qualname__}" for one in chain),
        "raised_at": frames_of(error),
    }
    sqlstate = next((state for one in chain if isinstance(state := getattr(one, "sqlstate", None), str)), None)
    if sqlstate is not None:
        found["sqlstate"] = sqlstate
    if isinstance(error, BaseExceptionGroup):
        found["errors"] = [fault(one) for one in error.exceptions]
    return found


def _without_values(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Replace an exception by its type and place, and drop the text of loggers that may speak of contents."""
    info = event.pop("exc_info", None)
    error = sys.exc_info()[1] if info is True else info[1] if isinstance(info, tuple) else info
    if isinstance(error, BaseException):
        event.update(fault(error))
    event.pop("stack", None)
    record = event.get("_record")
    if isinstance(record, logging.LogRecord) and not record.name.startswith(_SPEAKS_OF_CONNECTIONS):
        event["event"] = f"{record.name} at {record.module}:{record.lineno}"
    return event


def _render(_logger: WrappedLogger, _method: str, event: EventDict) -> bytes:
    return msgspec.json.encode(event, enc_hook=str)


def _render_text(logger: WrappedLogger, method: str, event: EventDict) -> str:
    return _render(logger, method, event).decode()


class _Lines(logging.Handler):
    """Writes the standard library's records, formatted, a line each."""

    def __init__(self, stream: BinaryIO) -> None:
        super().__init__()
        self._stream = stream

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record."""
        self._stream.write(self.format(record).encode() + b"\n")
        self._stream.flush()


def set_up_logging(level: str = "INFO", stream: BinaryIO | None = None) -> None:
    """Send structlog's events and the standard library's records to `stream`, one JSON object a line.

    `stream` is standard error unless told otherwise.
    """
    stream = stream or sys.stderr.buffer
    number = logging.getLevelNamesMapping()[level]
    before: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    structlog.configure(
        processors=[*before, _without_values, _render],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.BytesLoggerFactory(stream),
        cache_logger_on_first_use=True,
    )
    handler = _Lines(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_logger_name, *before],
            processors=[_without_values, structlog.stdlib.ProcessorFormatter.remove_processors_meta, _render_text],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(number)
    logging.captureWarnings(capture=True)
    for noisy in ("aiokafka", "kafka", "httpx", "httpcore", "asyncio", "uvicorn"):
        logging.getLogger(noisy).setLevel(max(logging.WARNING, number))
