from __future__ import annotations

import io
import json
import logging

import pytest
import structlog

from shared.runtime.logging import fault, set_up_logging

SECRET = "Featherstonehaugh"


class Refused(Exception):
    sqlstate = "23505"


def failing():
    try:
        raise Refused(f"Key (name)=({SECRET}) already exists")
    except Refused as error:
        raise RuntimeError(f"while writing {SECRET}") from error


@pytest.fixture
def logs():
    root = logging.getLogger()
    before = root.handlers[:], root.level
    stream = io.BytesIO()
    set_up_logging("INFO", stream)

    def read():
        return [json.loads(line) for line in stream.getvalue().splitlines()]

    yield read
    logging.captureWarnings(capture=False)
    structlog.reset_defaults()
    root.handlers[:] = before[0]
    root.setLevel(before[1])


def test_an_error_is_logged_by_type_and_place_and_never_by_its_message():
    with pytest.raises(RuntimeError) as raised:
        failing()
    found = fault(raised.value)
    assert found["error"].startswith("builtins.RuntimeError < ")
    assert found["error"].endswith("test_logging.Refused")
    assert found["sqlstate"] == "23505"
    assert any("failing" in frame for frame in found["raised_at"])
    assert SECRET not in repr(found)


def test_a_group_of_errors_tells_of_each():
    found = fault(ExceptionGroup("several", [ValueError(SECRET), KeyError(SECRET)]))
    assert [one["error"] for one in found["errors"]] == ["builtins.ValueError", "builtins.KeyError"]
    assert SECRET not in repr(found)


def test_a_log_is_one_json_object_a_line(logs):
    structlog.get_logger("a").info("request", status=200, roles=["api"])
    structlog.get_logger("a").debug("not shown")
    (entry,) = logs()
    assert entry["event"] == "request"
    assert entry["status"] == 200
    assert entry["level"] == "info"
    assert entry["timestamp"].endswith("Z")


def test_an_exception_in_a_log_has_no_message(logs):
    try:
        failing()
    except RuntimeError:
        structlog.get_logger("a").exception("went wrong")
        logging.getLogger("shared.x").exception("went wrong")
        logging.getLogger("asyncpg").exception("went wrong with %s", SECRET)
    entries = logs()
    assert len(entries) == 3
    assert all("RuntimeError" in entry["error"] for entry in entries)
    assert SECRET not in repr(entries)


def test_the_text_of_a_library_that_may_speak_of_contents_is_not_kept(logs):
    logging.getLogger("some.library").warning("resource %s", SECRET)
    logging.getLogger("aiokafka.conn").warning("connection to broker lost")
    first, second = logs()
    assert first["event"].startswith("some.library at test_logging:")
    assert second["event"] == "connection to broker lost"
