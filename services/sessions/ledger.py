"""The ledger and the doses: each dose of a controlled substance is booked out; one that is not calls a person.

A Task stands from the dose (or the hand-out of lozenges) until the ledger holds as much for it as was given. At home
nothing is taken from the clinic's stock: there the hand-out is what is booked.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from math import ceil, floor
from typing import Final

from services.sessions.calling import keep_by_hand
from services.sessions.dose import weight_of
from services.sessions.drugs import drug_at_worst
from services.sessions.rules.amounts import quantity_of
from services.sessions.rules.claims import COUNTED, UNSURE
from services.sessions.rules.substances import inventory_due, is_inventory_near
from services.sessions.rules.visits import VIRTUAL_CLASS
from services.sessions.setting import Setting
from services.sessions.steps import whole_of
from shared.fhir.codes import BOOK_SUBSTANCE, ID_TASK, INVESTIGATE_SUBSTANCE, REVIEW, TAKE_INVENTORY
from shared.fhir.dates import zulu
from shared.fhir.json import Resource
from shared.fhir.kap import effective_start, id_in, milligrams_in, moment, patient_of
from shared.fhir.raised import identifier, task
from shared.runtime.raising import OPEN_TASK, close_task, content_of, own_work, raise_once
from shared.runtime.record import Record
from shared.runtime.service import Change
from shared.runtime.timers import Round, Timer
from shared.store.substances import Substances

EVERY: Final = timedelta(minutes=1)
UG_IN_MG: Final = Decimal(1000)
HANDED_OUT: Final = frozenset(("completed", "in-progress"))
OFF: Final = frozenset(("not-done", "entered-in-error", "cancelled", "declined"))


def given_out(resource: Resource) -> bool:
    """Tell whether a dose or a hand-out takes something out of the stock."""
    status = resource.get("status")
    return status in (COUNTED if resource["resourceType"] == "MedicationAdministration" else HANDED_OUT)


@dataclass(frozen=True, slots=True)
class Amount:
    """How much a dose or a hand-out is, in whole micrograms: the least and the most that its record means.

    They differ where it is said by the patient's weight: what is drawn up is rounded.
    """

    least: int
    most: int


async def amount_of(record: Record, resource: Resource, setting: Setting) -> Amount | None:
    """Return how much a dose or a hand-out is; None: it is not said in mass, nor by a weight that is known."""
    quantity = quantity_of(resource) if "dosage" in resource else resource.get("quantity")
    if resource.get("status") == UNSURE or quantity is None:
        return None
    milligrams = milligrams_in(quantity)
    if milligrams is not None:
        exact = int(milligrams * UG_IN_MG)
        return Amount(exact, exact)
    when = effective_start(resource) or setting.clock()
    weighed = milligrams_in(quantity, await weight_of(record, patient_of(resource), when, setting))
    if weighed is None:
        return None
    share = setting.dosing.rounding.share
    return Amount(floor(weighed * UG_IN_MG * (1 - share)), ceil(weighed * UG_IN_MG * (1 + share)))


async def guard_booking(change: Change, record: Record, setting: Setting) -> None:
    """Set the Task to book a dose or a hand-out of a controlled substance, and keep it as the ledger stands."""
    after = change.after
    if after is None:
        return
    if (await drug_at_worst(record, after, setting))[0] is None:
        if change.before is not None:
            await book_nothing(record, {**after, "id": change.id}, setting)
        return
    if change.type == "MedicationAdministration" and await whole_of(record, after, setting) is not None:
        return
    patient = patient_of(after)
    visit_id = id_in(after.get("context"), "Encounter")
    visit = None if visit_id is None else await record.get("Encounter", visit_id)
    at_home = (visit or {}).get("class", {}).get("code") == VIRTUAL_CLASS.code
    if patient is None or (change.type == "MedicationAdministration" and at_home):
        return
    if after.get("status") == "not-done" and not after.get("statusReason"):
        await _ask_why(change, patient, visit_id, record, setting)
    if given_out(after) or after.get("status") in OFF:
        await settle(record, {**after, "id": change.id}, setting)


async def keep_booking(change: Change) -> None:
    """Guard of Task: what was given is booked out by the ledger, which ends the Task for it.

    Raises:
        Unprocessable: it would be ended, moved or removed by hand, and nobody would find out what became of the drug.

    """
    keep_by_hand(
        change,
        (BOOK_SUBSTANCE,),
        "A dose is booked out of its vial by the ledger, which ends this Task: $substance-book, kind administer. If it "
        "was not given, correct the dose. What the ledger does not hold in time is investigated.",
    )


async def settle(record: Record, resource: Resource, setting: Setting) -> None:
    """Open or close the Task of a dose or a hand-out by what the ledger holds for it; have a difference looked into."""
    now, reference = setting.clock(), f"{resource['resourceType']}/{resource['id']}"
    booked = -sum(one.entry.change_ug for one in await Substances(record.transaction).entries(administration=reference))
    name, out = identifier(ID_TASK, "book", reference), f"{booked} micrograms booked out for {reference}"
    if not given_out(resource):
        await close_task(record, name, now, status="cancelled", why="It was not given.")
        if booked:
            await investigate(record, f"unused:{reference}", f"{out}, which was not given", now)
        return
    wanted = await amount_of(record, resource, setting)
    if booked > 0 and (wanted is None or booked >= wanted.least):
        await close_task(record, name, now, why="The ledger holds it.")
        if wanted is None or booked > wanted.most:
            unknown = "of which it is not known how much was given"
            said = unknown if wanted is None else f"of which {wanted.most} were given"
            await investigate(record, f"differs:{reference}:{booked}", f"{out}, {said}", now)
        return
    due = now + timedelta(minutes=setting.substances.book.minutes)
    amount = "what was given" if wanted is None else f"{((wanted.least + wanted.most) // 2 - booked) / UG_IN_MG:f} mg"
    made = task(
        ("book", reference),
        patient=str(patient_of(resource)),
        code=BOOK_SUBSTANCE,
        description=f"Book {amount} out of its vial ($substance-book, kind administer), and waste what is left of it.",
        now=now,
        focus=reference,
        encounter=id_in(resource.get("context"), "Encounter"),
        due=due,
    )
    await raise_once(record, made, reopen=True)


async def book_nothing(record: Record, resource: Resource, setting: Setting) -> None:
    """Close the Task of what was taken for ketamine and is another drug; what was booked out for it is investigated."""
    now, reference = setting.clock(), f"{resource['resourceType']}/{resource['id']}"
    await close_task(record, identifier(ID_TASK, "book", reference), now, status="cancelled", why="It is another drug.")
    booked = -sum(one.entry.change_ug for one in await Substances(record.transaction).entries(administration=reference))
    if booked:
        said = f"{booked} micrograms booked out for {reference}, which is another drug"
        await investigate(record, f"other-drug:{reference}", said, now)


async def _ask_why(change: Change, patient: str, visit: str | None, record: Record, setting: Setting) -> None:
    asked = task(
        ("not-done", change.id),
        patient=patient,
        code=REVIEW,
        description="A dose was not given, and the record does not say why. Say it (statusReason).",
        now=setting.clock(),
        focus=f"{change.type}/{change.id}",
        encounter=visit,
    )
    await raise_once(record, asked)


async def investigate(record: Record, name: str, what: str, now: datetime) -> None:
    """Have a person find out why the ledger does not balance."""
    when = zulu(now)
    await raise_once(
        record,
        {
            "resourceType": "Task",
            "identifier": [identifier(ID_TASK, "substance", name)],
            "status": "requested",
            "intent": "order",
            "priority": "urgent",
            "code": INVESTIGATE_SUBSTANCE.concept(),
            "description": f"Ketamine does not balance: {what}. Investigate. Theft or loss: notice to the DEA within "
            "one business day, Form 106 within 45 days.",
            "authoredOn": when,
            "lastModified": when,
        },
    )


def timer(setting: Setting) -> Timer:
    """Return the timer that has doses without an entry in the ledger investigated."""

    async def look(one: Round) -> None:
        found = await one.search("Task", {"code": BOOK_SUBSTANCE.token(), "status": ",".join(sorted(OPEN_TASK))})
        late = [due for due in found if moment(due["restriction"]["period"]["end"]) < one.now]

        async def ask(due: Resource, record: Record) -> None:
            if due["status"] not in OPEN_TASK or "businessStatus" in due:
                return
            of = due["focus"]["reference"]
            await investigate(record, f"unbooked:{of}", f"{of} was given, and the ledger does not hold it", one.now)
            with own_work():
                await record.update(content_of({**due, "businessStatus": {"text": "overdue"}}))

        await one.each([due for due in late if "businessStatus" not in due], ask)

    return Timer("unbooked-substances", EVERY, look)


def inventory_timer(setting: Setting) -> Timer:
    """Return the timer that asks for the initial and the biennial inventory where there is a ledger."""

    async def look(one: Round) -> None:
        held = await one.search("Task", {"code": TAKE_INVENTORY.token()})
        done = [moment(task["lastModified"]) for task in held if task["status"] == "completed"]
        last = max(done, default=None)
        policy = setting.substances.inventory
        if any(task["status"] in OPEN_TASK for task in held) or not is_inventory_near(last, one.now, policy):
            return
        async with one.record() as record:
            if not await Substances(record.transaction).stock(one.now):
                return
            until = inventory_due(last, policy) or one.now
            asked = {
                "resourceType": "Task",
                "identifier": [identifier(ID_TASK, "inventory", str(len(held)))],
                "status": "requested",
                "intent": "order",
                "priority": "routine",
                "code": TAKE_INVENTORY.concept(),
                "description": "Take the inventory of controlled substances on one day, at the opening or the close of "
                "business: count each vial ($substance-book, kind count), keep $substance-inventory with its date.",
                "authoredOn": zulu(one.now),
                "lastModified": zulu(one.now),
                "restriction": {"period": {"end": zulu(until)}},
            }
            await raise_once(record, asked)

    return Timer("inventory", timedelta(hours=1), look)
