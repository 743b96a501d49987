"""The ledger of controlled substances behind FHIR: booking, balance, inventory, dispensing log."""

from __future__ import annotations

from datetime import date, datetime, timedelta
from typing import Any, Final

from services.sessions.drugs import gated_drug
from services.sessions.ledger import UG_IN_MG, Amount, amount_of, given_out, investigate, settle
from services.sessions.names import address_of, name_of
from services.sessions.operations.parameters import moment_in
from services.sessions.rules.substances import KINDS, OUT, RECORDS, WITNESSED, against, lacking, micrograms, product_of
from services.sessions.setting import Setting
from services.sessions.signing import require_known, signed_by
from shared.fhir.codes import UCUM
from shared.fhir.dates import MIN_INSTANT, interval, zulu
from shared.fhir.json import Resource, parse
from shared.fhir.kap import milligrams_in, patient_of
from shared.fhir.outcome import BadRequest, Unprocessable
from shared.fhir.zones import day_at
from shared.runtime.record import Record
from shared.runtime.service import Operation, OperationCall
from shared.store.access import Access
from shared.store.substances import Booked, Entry, Stock, Substances, Vial

_FORMS: Final = {
    "kind": "valueCode",
    "ndc": "valueString",
    "lot": "valueString",
    "vial": "valueString",
    "amount": "valueQuantity",
    "performer": "valueReference",
    "witness": "valueReference",
    "administration": "valueReference",
    "form41": "valueString",
    "note": "valueString",
    "expires": "valueDate",
    "occurred": "valueDateTime",
    "at": "valueDateTime",
    "start": "valueDateTime",
    "end": "valueDateTime",
}

MOST_UG: Final = 10**10
"""What no vial holds, in micrograms: 10 kg."""

_WORDS: Final = ("valueCode", "valueDate", "valueDateTime")
"""Forms that are taken as a valueString, too."""


def substance_operations(setting: Setting) -> tuple[Operation, ...]:
    """Return the operations on the ledger."""

    async def book(call: OperationCall, record: Record) -> Resource:
        return await _book(call, record, setting)

    async def balance(call: OperationCall, record: Record) -> Resource:
        return await _balance(call, record, setting)

    async def inventory(call: OperationCall, record: Record) -> Resource:
        return await _inventory(call, record, setting)

    async def log(call: OperationCall, record: Record) -> Resource:
        return await _log(call, record, setting)

    return (
        Operation(
            "substance-book",
            "SupplyDelivery",
            "type",
            book,
            documentation=(
                "Books on the ledger of controlled substances. Parameters: kind (receive, open, administer, waste, "
                "destroy, return, count, adjust), ndc, lot, vial, performer (Reference), amount (Quantity, mg; of "
                "count what is there; of adjust up or down), witness (waste, destroy, adjust), administration "
                "(administer), form41 (destroy), note (adjust), expires (receive), occurred (default now)."
            ),
        ),
        Operation(
            "substance-balance",
            "SupplyDelivery",
            "type",
            balance,
            affects_state=False,
            documentation="What a vial holds, or held at a time: ndc, lot, vial, at.",
        ),
        Operation(
            "substance-inventory",
            "SupplyDelivery",
            "type",
            inventory,
            affects_state=False,
            documentation="What every vial, and of each product all, held at a time (at; default now): the inventory.",
        ),
        Operation(
            "substance-log",
            "SupplyDelivery",
            "type",
            log,
            affects_state=False,
            documentation=(
                "Every entry of a time (start, end): the dispensing log, with substance, form and strength, the "
                "patient with his address, and who did it before whom."
            ),
        ),
    )


def _parameters(call: OperationCall) -> dict[str, Any]:
    given: dict[str, Any] = {}
    for parameter in call.parameters.get("parameter", []):
        name = parameter.get("name")
        form = _FORMS.get(name, "")
        value = parameter.get(form, parameter.get("valueString") if form in _WORDS else None)
        if name not in _FORMS or value is None or not _is_of(form, value):
            said = ", ".join(f"{one} ({form})" for one, form in _FORMS.items())
            raise BadRequest(
                f"${call.name} does not understand the parameter '{name}'. There are: {said}. A Reference says "
                "`reference`, a Quantity `value`.",
                expression=["Parameters.parameter"],
            )
        given[name] = value
    return given


def _is_of(form: str, value: Any) -> bool:
    """Tell whether a value is of its form, as far as it is read here."""
    if form == "valueReference":
        return isinstance(value, dict) and bool(id_of(value))
    return isinstance(value, dict) if form == "valueQuantity" else isinstance(value, str)


def id_of(reference: dict[str, Any]) -> str:
    """Return what a Reference says literally; empty where it has only a display or an identifier."""
    said = reference.get("reference")
    return said if isinstance(said, str) else ""


def _last_day(expires: Any) -> date:
    """Return the last day of a FHIR date: of a month or a year, its last."""
    try:
        end = interval(str(expires))[1]
    except ValueError as error:
        raise BadRequest(f"expires: {error}.", expression=["Parameters.parameter"]) from None
    return (end - timedelta(microseconds=1)).date()


def _time(given: dict[str, Any], name: str, now: datetime) -> datetime:
    return moment_in(name, given.get(name), now)


async def _book(call: OperationCall, record: Record, setting: Setting) -> Resource:
    given = _parameters(call)
    kind = given.get("kind")
    if kind not in KINDS:
        raise BadRequest(f"The kind is one of {', '.join(KINDS)}.", expression=["Parameters.parameter"])
    missing = lacking(kind, given)
    if missing:
        raise BadRequest(
            f"An entry of kind {kind} needs {', '.join(missing)}.", code="required", expression=["Parameters.parameter"]
        )
    now = setting.clock()
    occurred = _time(given, "occurred", now)
    if occurred > now:
        raise BadRequest("What is booked has happened: occurred is still to come.", expression=["Parameters.parameter"])
    ledger, vial = Substances(record.transaction), Vial(str(given["ndc"]), str(given["lot"]), str(given["vial"]))
    await ledger.hold(vial)
    held, amount = await ledger.balance(vial, occurred), _amount(kind, given)
    change = {"open": 0, "count": amount - (held or 0)}.get(kind, -amount if kind in OUT else amount)
    performer = await signed_by(record, given["performer"], "the performer")
    witness = None if "witness" not in given else await signed_by(record, given["witness"], "the witness")
    if witness is not None:
        await require_known(record, witness)
    least = await ledger.least(vial, occurred)
    received = await ledger.balance(vial) is not None
    issues = list(against(kind, change, least, received=received, performer=performer, witness=witness))
    if issues:
        raise Unprocessable(issues)
    dose = await _given_out(given, record, setting) if kind == "administer" else None
    if dose is not None:
        await _require_new(ledger, vial, dose, amount, await amount_of(record, dose, setting))
    booked = await ledger.book(
        Entry(
            kind=kind,
            ndc=vial.ndc,
            lot=vial.lot,
            vial=vial.vial,
            change_ug=change,
            occurred_at=occurred,
            performer=performer,
            witness=witness if kind in WITNESSED or witness is not None else None,
            counted_ug=amount if kind == "count" else None,
            administration=None if kind != "administer" else str(given["administration"]["reference"]),
            patient=None if dose is None else f"Patient/{patient_of(dose)}",
            form41=given.get("form41"),
            note=given.get("note"),
            expires=None if "expires" not in given else _last_day(given["expires"]),
        )
    )
    if kind == "count" and change != 0:
        said = f"{vial}: counted {amount} micrograms, {held} by the ledger"
        if booked.balance_ug < 0:
            said += f"; {-booked.balance_ug} more were booked out since then than there were"
        await investigate(record, booked.id, said, now)
    if dose is not None:
        await settle(record, dose, setting)
    if kind in ("open", "administer") and await _is_expired(ledger, vial, occurred, setting):
        await investigate(record, f"expired:{vial}", f"{vial} was used after its last day", now)
    return {"resourceType": "Parameters", "parameter": [_told(booked)]}


async def _require_new(ledger: Substances, vial: Vial, dose: Resource, amount: int, given: Amount | None) -> None:
    """Refuse to book the same again: out of a vial that a dose was booked out of, no more than was given."""
    reference = f"{dose['resourceType']}/{dose['id']}"
    booked = await ledger.entries(administration=reference)
    total = amount - sum(one.entry.change_ug for one in booked)
    if any(one.entry.of == vial for one in booked) and (given is None or total > given.most):
        raise Unprocessable(
            f"Not booked: {reference} is booked out of this vial already, and with this entry it would be more than "
            "was given. Correct the dose first where more was given; what was spilt is wasted (kind waste).",
            code="duplicate",
            expression=["Parameters"],
            rule="C-DOSE",
            source=RECORDS,
        )


async def _is_expired(ledger: Substances, vial: Vial, when: datetime, setting: Setting) -> bool:
    last = await ledger.expires(vial)
    return last is not None and last < day_at(when, setting.zone)


def _amount(kind: str, given: dict[str, Any]) -> int:
    if kind == "open":
        return 0
    milligrams = milligrams_in(given["amount"])
    exact = None if milligrams is None else micrograms(milligrams, UG_IN_MG)
    lowest = 0 if kind == "count" else 1
    if exact is None or abs(exact) > MOST_UG or (kind != "adjust" and exact < lowest):
        raise BadRequest(
            "The amount is a Quantity in mg, g or ug (UCUM), of whole micrograms, above 0; a vial holds no 10 kg.",
            code="value",
            expression=["Parameters.parameter"],
        )
    return exact


async def _given_out(given: dict[str, Any], record: Record, setting: Setting) -> Resource:
    """Return the dose or the hand-out that an entry names."""
    type_, _, id_ = str(given["administration"].get("reference", "")).partition("/")
    known = type_ in ("MedicationAdministration", "MedicationDispense")
    stored = await record.transaction.find(Access.unrestricted(), type_, id_, lock=True) if known and id_ else None
    # A correction of the dose waits until this is booked, or is seen here.
    found: Resource | None = None if stored is None or stored.deleted else parse(stored.body)
    if found is None or patient_of(found) is None or not given_out(found):
        raise Unprocessable(
            "Not booked: the dose is not recorded here. Record the MedicationAdministration (or what was handed out: "
            "the MedicationDispense) first.",
            rule="C-DOSE",
            source=RECORDS,
        )
    if await gated_drug(record, found, setting) is None:
        raise Unprocessable("Not booked: the dose is not of ketamine or esketamine.", rule="C-DOSE", source=RECORDS)
    return found


async def _balance(call: OperationCall, record: Record, setting: Setting) -> Resource:
    given = _parameters(call)
    missing = [name for name in ("ndc", "lot", "vial") if name not in given]
    if missing:
        raise BadRequest(f"$substance-balance needs {', '.join(missing)}.", expression=["Parameters.parameter"])
    vial = Vial(str(given["ndc"]), str(given["lot"]), str(given["vial"]))
    at = _time(given, "at", setting.clock()) if "at" in given else None
    held = await Substances(record.transaction).balance(vial, at)
    if held is None:
        raise Unprocessable(f"Nothing is known of {vial} at that time.", rule="C-RECEIVED", source=RECORDS)
    return {"resourceType": "Parameters", "parameter": [{"name": "balance", "valueQuantity": _quantity(held)}]}


async def _inventory(call: OperationCall, record: Record, setting: Setting) -> Resource:
    at = _time(_parameters(call), "at", setting.clock())
    found = await Substances(record.transaction).stock(at)
    told: list[dict[str, Any]] = [{"name": "at", "valueDateTime": zulu(at)}]
    totals: dict[str, int] = {}
    for one in found:
        totals[one.of.ndc] = totals.get(one.of.ndc, 0) + one.balance_ug
    for ndc, total in sorted(totals.items()):
        said = [{"name": "ndc", "valueString": ndc}, *_product(ndc, setting)]
        told.append({"name": "product", "part": [*said, {"name": "balance", "valueQuantity": _quantity(total)}]})
    return {"resourceType": "Parameters", "parameter": [*told, *(_vial(one) for one in found)]}


def _product(ndc: str, setting: Setting) -> list[dict[str, Any]]:
    product = product_of(ndc, setting.substances)
    if product is None:
        return []
    return [{"name": name, "valueString": getattr(product, name)} for name in ("substance", "form", "strength")]


async def _log(call: OperationCall, record: Record, setting: Setting) -> Resource:
    given = _parameters(call)
    since = None if "start" not in given else _time(given, "start", MIN_INSTANT)
    until = None if "end" not in given else _time(given, "end", MIN_INSTANT)
    found = await Substances(record.transaction).entries(since=since, until=until)
    told = []
    for one in found:
        entry = _told(one)
        entry["part"] += _product(one.entry.ndc, setting)
        people = {"performer": one.entry.performer, "witness": one.entry.witness, "patient": one.entry.patient}
        for name, who in people.items():
            if who is not None:
                said = await name_of(record, {"reference": who})
                entry["part"].append({"name": f"{name}-name", "valueString": said})
        address = "" if one.entry.patient is None else await address_of(record, one.entry.patient)
        if address:
            entry["part"].append({"name": "patient-address", "valueString": address})
        told.append(entry)
    made: Resource = {"resourceType": "Parameters"}
    return {**made, "parameter": told} if told else made


def _quantity(ug: int) -> dict[str, Any]:
    return {"value": ug, "unit": "ug", "system": UCUM, "code": "ug"}


def _vial(one: Stock) -> dict[str, Any]:
    parts: list[dict[str, Any]] = [
        {"name": "ndc", "valueString": one.of.ndc},
        {"name": "lot", "valueString": one.of.lot},
        {"name": "vial", "valueString": one.of.vial},
        {"name": "balance", "valueQuantity": _quantity(one.balance_ug)},
    ]
    if one.expires is not None:
        parts.append({"name": "expires", "valueDate": one.expires.isoformat()})
    return {"name": "vial", "part": parts}


def _told(booked: Booked) -> dict[str, Any]:
    entry = booked.entry
    parts: list[dict[str, Any]] = [
        {"name": "id", "valueString": booked.id},
        {"name": "kind", "valueCode": entry.kind},
        {"name": "ndc", "valueString": entry.ndc},
        {"name": "lot", "valueString": entry.lot},
        {"name": "vial", "valueString": entry.vial},
        {"name": "change", "valueQuantity": _quantity(entry.change_ug)},
        {"name": "balance", "valueQuantity": _quantity(booked.balance_ug)},
        {"name": "occurred", "valueDateTime": zulu(entry.occurred_at)},
        {"name": "recorded", "valueDateTime": zulu(booked.recorded_at)},
    ]
    people = {name: getattr(entry, name) for name in ("performer", "witness", "administration", "patient")}
    parts.extend(
        {"name": name, "valueReference": {"reference": one}} for name, one in people.items() if one is not None
    )
    texts = {name: getattr(entry, name) for name in ("form41", "note")}
    parts.extend({"name": name, "valueString": one} for name, one in texts.items() if one is not None)
    return {"name": "entry", "part": parts}
