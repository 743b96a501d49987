"""What scheduling does because time passes: holds that end, times that are offered, reminders, visits to look at."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any, Final

from services.scheduling.appointments import held, held_until
from services.scheduling.booking import hold, needed, occupies
from services.scheduling.changing import REASONS
from services.scheduling.finding import Asked, board_of
from services.scheduling.ground import ground_of, patient_in, start_of
from services.scheduling.guards import held_twice
from services.scheduling.reactions import look_again
from services.scheduling.rules.booking import OCCUPYING, is_by_video, span_of
from services.scheduling.rules.finding import Option
from services.scheduling.rules.ground import unmet
from services.scheduling.rules.messages import due_messages
from services.scheduling.setting import Setting
from services.scheduling.telling import call_who_asked, tell_of_offer, tell_patient, when_text
from shared.fhir.codes import EXT_DECLINED_TIME, EXT_HOLD_BEFORE, INSTRUCTION, NOBODY_CAME, REMINDER, ROLES
from shared.fhir.dates import interval, period_interval, zulu
from shared.fhir.json import Resource
from shared.fhir.kap import has_died, moment, visit_of
from shared.fhir.raised import task
from shared.notify.telling import Letter
from shared.runtime.raising import content_of, own_work, raise_once
from shared.runtime.record import Record
from shared.runtime.timers import Round, Timer

LOOKED_BACK: Final = timedelta(days=1)
"""How long after its start a visit that nobody came to is still asked about: what is charted later is not."""

LOOKED_AHEAD: Final = timedelta(days=28)
"""How far ahead a time is looked for, for who is waiting and says no period."""


def timers(setting: Setting) -> tuple[Timer, ...]:
    """Return scheduling's timers under a policy."""

    async def holds(turn: Round) -> None:
        await turn.each(await turn.search("Appointment", {"status": "pending"}), ending)

    async def ending(appointment: Resource, record: Record) -> None:
        await end_hold(appointment, record, setting)

    async def waiting(turn: Round) -> None:
        found = await turn.search("Appointment", {"status": "waitlist"})
        await turn.each(sorted(found, key=_place), offering)

    async def offering(appointment: Resource, record: Record) -> None:
        await offer(appointment, record, setting)

    async def messages(turn: Round) -> None:
        longest = max((one.hours_before for one in setting.policy.messages.values()), default=0)
        await turn.each(await _coming(turn, turn.now, turn.now + timedelta(hours=longest)), telling)

    async def telling(appointment: Resource, record: Record) -> None:
        await tell_before(appointment, record, setting)

    async def watch(turn: Round) -> None:
        last = turn.now + timedelta(hours=setting.policy.watch.hours)
        await turn.each(await _coming(turn, turn.now, last), looking)

    async def looking(appointment: Resource, record: Record) -> None:
        await look_again(appointment, record, setting)

    async def missing(turn: Round) -> None:
        last = turn.now - timedelta(minutes=setting.policy.no_show.minutes)
        await turn.each(await _coming(turn, turn.now - LOOKED_BACK, last), asking)

    async def asking(appointment: Resource, record: Record) -> None:
        await ask_who_came(appointment, record, setting)

    async def bookings(turn: Round) -> None:
        taking = [("status", ",".join(sorted(OCCUPYING))), ("date", f"ge{zulu(turn.now - LOOKED_BACK)}")]
        await turn.each(await turn.search("Appointment", taking), keeping)

    async def keeping(appointment: Resource, record: Record) -> None:
        await keep_booked(appointment, record, setting)

    return (
        Timer("bookings", timedelta(hours=6), bookings),
        Timer("holds", timedelta(seconds=15), holds),
        Timer("waiting-list", timedelta(seconds=30), waiting),
        Timer("messages", timedelta(seconds=60), messages),
        Timer("coming-visits", timedelta(minutes=5), watch),
        Timer("missed-visits", timedelta(minutes=5), missing),
    )


async def _coming(turn: Round, low: datetime, high: datetime) -> list[Resource]:
    return await turn.search(
        "Appointment", [("status", "booked"), ("date", f"ge{zulu(low)}"), ("date", f"le{zulu(high)}")]
    )


def _place(appointment: Resource) -> tuple[int, str]:
    """Return the place in the waiting list: by priority (1 is the highest, 0 is none), then by when it was asked."""
    return int(appointment.get("priority", 0)) or 10, str(
        appointment.get("created", appointment["meta"]["lastUpdated"])
    )


# -- Bookings ---------------------------------------------------------------------------------------------------------


async def keep_booked(appointment: Resource, record: Record, setting: Setting) -> None:
    """Let a visit that was booked before bookings were kept in the database hold what it takes; else change nothing."""
    if not occupies(appointment) or span_of(appointment) is None:
        return
    found = await hold(record, f"Appointment/{appointment['id']}", await needed(record, appointment, setting))
    held = [one for one in found if not one.closed]
    if held:
        await held_twice(str(appointment["id"]), appointment, held, record, setting)


# -- Holds ------------------------------------------------------------------------------------------------------------


async def end_hold(appointment: Resource, record: Record, setting: Setting) -> None:
    """Free a time whose hold is over; one that was offered from the waiting list goes back to it.

    Of one that nobody held, and that is not confirmed in time, a person is told: who asked for it relies on it.
    """
    if appointment["status"] != "pending":
        return
    until = held_until(appointment)
    asked = until is None
    if until is None:
        written = await record.as_written(appointment)
        until = moment(written["meta"]["lastUpdated"]) + timedelta(hours=setting.policy.confirm.hours)
    if setting.clock() < until:
        return
    ended = content_of(appointment)
    if any(one["url"] == EXT_DECLINED_TIME for one in ended.get("extension", [])):
        ended = back_to_waiting(ended)
    else:
        ended["status"] = "cancelled"
        ended["cancelationReason"] = REASONS["other"].concept(text="The hold was not made a booking in time.")
    with own_work():
        await record.update(ended)
    if asked and ended["status"] == "cancelled":
        await call_who_asked(appointment, record, setting)


def back_to_waiting(appointment: Resource) -> Resource:
    """Return an appointment that was offered a time as waiting again; the time is known as declined."""
    extensions = [one for one in appointment["extension"] if one["url"].endswith("declined-time")]
    kept = {name: value for name, value in appointment.items() if name not in ("start", "end", "extension")}
    participants = [one for one in appointment["participant"] if _is_patient(one)]
    return {**kept, "status": "waitlist", "extension": extensions, "participant": participants}


# -- The waiting list -------------------------------------------------------------------------------------------------


async def offer(appointment: Resource, record: Record, setting: Setting) -> None:
    """Offer the first free time to a patient who waits, and keep it for him for a while."""
    visit, patient = visit_of(appointment), patient_in(appointment)
    if appointment["status"] != "waitlist" or visit is None or visit not in setting.policy.visits or patient is None:
        return
    if has_died(await record.get("Patient", patient) or {}):
        return
    now = setting.clock()
    until = now + timedelta(minutes=setting.policy.offer.minutes)
    declined = {
        interval(one["valueInstant"])[0] for one in appointment.get("extension", []) if one["url"] == EXT_DECLINED_TIME
    }
    for low, high in _periods(appointment, until, setting):
        option = await _first(appointment, visit, patient, (low, high), declined, record, setting)
        if option is None:
            continue
        await _offer(appointment, option, until, record, setting)
        return


def _periods(appointment: Resource, soonest: datetime, setting: Setting) -> list[tuple[datetime, datetime]]:
    """Return when a patient who waits wants to come, from `soonest` on."""
    asked = [period_interval(one) for one in appointment.get("requestedPeriod", [])]
    periods = [one for one in asked if one is not None] or [(soonest, soonest + LOOKED_AHEAD)]
    most = timedelta(hours=setting.policy.most_found.hours)
    found = [(max(low, soonest), min(high, max(low, soonest) + most)) for low, high in periods]
    return sorted((low, high) for low, high in found if low < high)


async def _first(
    appointment: Resource,
    visit: str,
    patient: str,
    period: tuple[datetime, datetime],
    declined: set[datetime],
    record: Record,
    setting: Setting,
) -> Option | None:
    """Return the earliest time that is free, was not declined, and could be booked."""
    low, high = period
    asked = Asked(visit, low, high, f"Patient/{patient}", by_video=is_by_video(appointment))
    board = await board_of(record, asked, setting)
    wanted = board.wanted(visit, setting.policy.visits[visit], asked)
    for option in wanted.options(board.grid, board.grid.everything):
        if option.start in declined:
            continue
        timed = with_time(appointment, option)
        lacking = unmet(visit, await ground_of(record, timed, setting), option.start, setting.policy)
        if not lacking:
            return option
        if {one.rule for one in lacking} != {"S-SPACING"}:  # another time would not change it
            return None
    return None


async def _offer(appointment: Resource, option: Option, until: datetime, record: Record, setting: Setting) -> None:
    offered = held(with_time(content_of(appointment), option), until)
    offered["extension"].append({"url": EXT_DECLINED_TIME, "valueInstant": zulu(option.start)})
    if "requestedPeriod" in appointment:
        offered["requestedPeriod"] = appointment["requestedPeriod"]
    with own_work():
        await record.update(offered)
    patient = patient_in(appointment)
    if patient is not None:
        await tell_of_offer(offered, until, patient, record, setting)


def _is_patient(participant: Resource) -> bool:
    return "Patient/" in participant.get("actor", {}).get("reference", "")


def with_time(appointment: Resource, option: Option) -> Resource:
    """Return an appointment at a time, with the people of it beside the patient."""
    staff: list[Any] = [
        {"type": [ROLES[role].concept()], "actor": {"reference": name}, "required": "required", "status": "tentative"}
        for role, name in option.people.items()
    ]
    own = [one for one in appointment["participant"] if _is_patient(one)]
    return {**appointment, "start": zulu(option.start), "end": zulu(option.end), "participant": [*own, *staff]}


# -- Before and after visits ------------------------------------------------------------------------------------------


async def tell_before(appointment: Resource, record: Record, setting: Setting) -> None:
    """Remind a patient of a visit, and tell him how to prepare, as the policy says when."""
    visit, patient, start, now = visit_of(appointment), patient_in(appointment), start_of(appointment), setting.clock()
    if appointment["status"] != "booked" or visit is None or patient is None or start is None:
        return
    hold = hours_held(await record.search("DetectedIssue", {"patient": f"Patient/{patient}"}))
    due = due_messages(visit, start, now, setting.policy, hold)
    if any(message.category == "instruction" for _, message in due) and unmet(
        visit, await ground_of(record, appointment, setting), start, setting.policy
    ):  # nobody fasts, or holds a medicine, for a visit that may not be; once its ground is back he is told
        due = [(name, message) for name, message in due if message.category != "instruction"]
    for name, message in due:
        said = when_text(start, setting.zone)
        text = f"{message.text} {message.hold}" if hold and message.hold else message.text
        letter = Letter(
            REMINDER if message.category == "reminder" else INSTRUCTION,
            message.subject.format(**said),
            text.format(**said, hours=hold),
            category=message.category,
            about=(f"Appointment/{appointment['id']}",),
            expires=start,
        )
        key = ("message", str(appointment["id"]), name, zulu(start))
        await tell_patient(record, key, letter, patient=patient, setting=setting)


def hours_held(issues: Iterable[Resource]) -> int:
    """Return how many hours before a dose a medicine is held, by the interactions that stand; 0: none is."""
    hours = [
        int(one["valueDuration"]["value"])
        for issue in issues
        if issue["status"] == "final"
        for one in issue.get("extension", [])
        if one.get("url") == EXT_HOLD_BEFORE and one.get("valueDuration", {}).get("code") == "h"
    ]
    return max(hours, default=0)


async def ask_who_came(appointment: Resource, record: Record, setting: Setting) -> None:
    """Ask about a visit that has begun, and that nobody is recorded to have come to."""
    patient = patient_in(appointment)
    if appointment["status"] != "booked" or patient is None:
        return
    visits: Sequence[Resource] = await record.search("Encounter", {"appointment": f"Appointment/{appointment['id']}"})
    if any(one["status"] not in ("planned", "cancelled", "entered-in-error") for one in visits):
        return
    due = task(
        ("came", str(appointment["id"])),
        patient=patient,
        code=NOBODY_CAME,
        description=f"Nobody is recorded to have come to the visit at {appointment.get('start')}. Record that the "
        f"patient came, or did not (Appointment/{appointment['id']}/$no-show), and call him.",
        now=setting.clock(),
        priority="asap",
        focus=f"Appointment/{appointment['id']}",
    )
    await raise_once(record, due)
