from __future__ import annotations

import stat
import threading
from pathlib import Path

import pytest

from cli.stack.problem import StackProblem
from cli.stack.state import DEFAULTS, Options, Process, State, StateFile

PROCESS = Process(
    name="intake",
    pid=4711,
    created=1790000000.25,
    command=["python", "-m", "services.run", "intake"],
    told="0123456789abcdef",
    serves={"intake": 8001},
    log="/data/logs/intake.log",
)


def test_what_was_written_is_read_again(tmp_path: Path) -> None:
    file = StateFile(tmp_path)
    written = State(
        options=Options(port_base=9000, kafka="memory", postgres="embedded", single=False),
        processes={"intake": PROCESS},
        kafka_bootstrap="127.0.0.1:9011",
        foreground=17,
    )
    file.write(written)
    assert file.read() == written


def test_a_stack_that_never_ran_has_the_defaults_and_no_process(tmp_path: Path) -> None:
    state = StateFile(tmp_path / "nowhere").read()
    assert state == State(options=DEFAULTS)
    assert not (tmp_path / "nowhere").exists()


def test_only_the_owner_reads_the_state_for_it_may_hold_a_password(tmp_path: Path) -> None:
    file = StateFile(tmp_path)
    file.write(State(options=Options(postgres="postgresql://kap:secret@db/postgres")))
    assert stat.S_IMODE(file.path.stat().st_mode) == 0o600


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"format": 99}', '{"format": 1, "options": {"colour": 1}}'])
def test_a_file_of_another_version_is_a_problem_in_a_sentence(tmp_path: Path, content: str) -> None:
    file = StateFile(tmp_path)
    file.path.write_text(content)
    with pytest.raises(StackProblem, match="not written by this version"):
        file.read()


def test_what_an_option_does_not_say_is_as_it_was() -> None:
    before = Options(port_base=9000, kafka="memory", postgres="embedded", single=True)
    assert Options().over(before) == before
    assert Options(single=False, kafka="apache").over(before) == Options(
        port_base=9000, kafka="apache", postgres="embedded", single=False
    )


def test_a_stack_asks_for_tokens_unless_told_otherwise() -> None:
    assert Options().over(DEFAULTS).auth is True
    assert Options(auth=False).over(DEFAULTS).auth is False
    assert Options().over(Options(auth=False).over(DEFAULTS)).auth is False, "as it was the last time"


def test_one_command_at_a_time_changes_a_stack_and_the_other_says_that_it_waits(tmp_path: Path) -> None:
    order: list[str] = []
    waiting = threading.Event()

    def second() -> None:
        with StateFile(tmp_path).locked(lambda _: waiting.set()):
            order.append("second")

    with StateFile(tmp_path).locked(order.append):
        thread = threading.Thread(target=second)
        thread.start()
        assert waiting.wait(5)
        order.append("first")
    thread.join(5)
    assert order == ["first", "second"]


def test_waiting_for_another_command_has_an_end(tmp_path: Path) -> None:
    with (
        StateFile(tmp_path).locked(lambda _: None),
        pytest.raises(StackProblem, match="has been starting or stopping"),
        StateFile(tmp_path).locked(lambda _: None, timeout=0.0),
    ):
        pass
