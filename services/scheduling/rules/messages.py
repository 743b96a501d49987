"""Which messages a patient is due before a visit."""

from __future__ import annotations

from datetime import datetime, timedelta

from services.scheduling.rules.policy import Message, SchedulingPolicy


def due_messages(
    visit: str, start: datetime, now: datetime, policy: SchedulingPolicy, hold: int = 0
) -> list[tuple[str, Message]]:
    """Return the messages that are due now: every instruction, and of the reminders only the last.

    `hold`: how many hours before the visit a medicine is held; what says so is due before that.
    """
    due = [
        (name, one)
        for name, one in policy.messages.items()
        if visit in one.visits
        and start - timedelta(hours=max(one.hours_before, hold if one.hold else 0)) <= now < start
    ]
    reminders = [pair for pair in due if pair[1].category == "reminder"]
    instructions = [pair for pair in due if pair[1].category == "instruction"]
    return [*instructions, *sorted(reminders, key=lambda pair: pair[1].hours_before)[:1]]
