"""A continuous device's feed: `Encounter/$feed` makes one Observation of each signal and minute."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, Final

from services.sessions.feeding import clock_extension, feed_name, seconds_ahead
from services.sessions.rules.alarms import is_graver
from services.sessions.rules.feeds import MINUTE, by_minute, is_sample, put_in
from services.sessions.setting import Setting
from shared.fhir.codes import LOINC, OBSERVATION_CATEGORY, UCUM, Code
from shared.fhir.dates import interval, zulu
from shared.fhir.json import Resource
from shared.fhir.kap import codes_of, patient_of, reference
from shared.fhir.outcome import BadRequest, NotFound, Unprocessable
from shared.runtime.raising import content_of, find
from shared.runtime.record import Record
from shared.runtime.service import Operation, OperationCall

FORMS: Final = {
    "code": "valueCodeableConcept",
    "unit": "valueCode",
    "start": "valueInstant",
    "period": "valueDecimal",
    "data": "valueString",
    "lower": "valueDecimal",
    "upper": "valueDecimal",
}
_NEEDED: Final = ("code", "unit", "start", "period", "data")
LONGEST: Final = timedelta(hours=1)
"""What one signal of a call spans at most: what was kept back for longer is sent in parts."""

FARTHEST: Final = timedelta(days=60 * 365)
"""By how much a device's clock may be off at most: one that was reset says 1970 or 2000."""

WHERE: Final = ("Parameters.parameter",)
_VITAL_SIGNS: Final = Code(OBSERVATION_CATEGORY, "vital-signs", "Vital Signs")


@dataclass(frozen=True, slots=True)
class Signal:
    """Samples of a signal as a call has them."""

    concept: Resource
    code: str
    unit: str
    start: datetime
    period: Decimal
    samples: tuple[str, ...]
    lower: Decimal | None = None
    upper: Decimal | None = None

    @property
    def end(self) -> datetime:
        """When the last sample was measured, by the device's clock."""
        return self.start + (len(self.samples) - 1) * self.apart

    @property
    def apart(self) -> timedelta:
        """The time from one sample to the next."""
        return timedelta(milliseconds=float(self.period))


def feed_operations(setting: Setting) -> tuple[Operation, ...]:
    """Return the operation that takes a feed in."""

    async def write(call: OperationCall, record: Record) -> Resource:
        return await _feed(call, record, setting)

    said = ", ".join(f"{name} ({form})" for name, form in FORMS.items())
    return (
        Operation(
            name="feed",
            type="Encounter",
            level="instance",
            handler=write,
            documentation=(
                "Takes in samples of a continuous device in a visit: one Observation with SampledData for each signal "
                "and minute, which grows as samples come; alarms are raised on arrival. Sent again, samples change "
                "nothing. Parameters: device (Reference), and for each `signal` the parts "
                f"{said}: the LOINC code, the UCUM unit, when the first sample was taken, milliseconds from one to the "
                "next, and the samples, separated by spaces (E: none valid; L, U: under and over what the device can "
                "measure, which `lower` and `upper` say where it is known; without `lower` an L of what has a lower "
                "limit alarms). An hour at most. Samples of a device whose clock is wrong are kept with the time at "
                "which they came. Returns Parameters with a `recorded` (Reference) for each Observation."
            ),
        ),
    )


async def _feed(call: OperationCall, record: Record, setting: Setting) -> Resource:
    visit = await record.get("Encounter", str(call.id))
    if visit is None:
        raise NotFound(f"There is no Encounter/{call.id} here.")
    signals, device = _parameters(call, setting)
    if visit["status"] in ("planned", "cancelled", "entered-in-error"):
        raise Unprocessable(
            f"The visit is {visit['status']}: nobody is measured in it yet. Begin it first.",
            expression=["Encounter.status"],
            source="KAP Exchange",
        )
    found, early, now = [], setting.monitoring.early.share, setting.clock()
    by = None if device is None else str(device.get("reference"))
    for signal in signals:
        ahead = await seconds_ahead(record, visit, signal.code, signal.period, by, signal.end, setting)
        start = signal.start - timedelta(seconds=ahead)
        for minute, samples in by_minute(start, signal.apart, signal.samples, early).items():
            found.append(await _put(record, visit, signal, device, minute, samples, ahead, now, setting))
    recorded = [{"name": "recorded", "valueReference": {"reference": f"Observation/{one}"}} for one in found]
    return {"resourceType": "Parameters", "parameter": recorded}


async def _put(
    record: Record,
    visit: Resource,
    signal: Signal,
    device: Resource | None,
    minute: datetime,
    samples: dict[int, str],
    ahead: int,
    now: datetime,
    setting: Setting,
) -> str:
    """Put samples into the Observation of their signal and minute; return its id. Unchanged, it is not written.

    Of two samples in one place the one further beyond an alarm limit stays: clocks differ, and none is to be lost.
    """
    by = None if device is None else str(device.get("reference"))
    name = feed_name(str(visit["id"]), signal.code, signal.period, by, minute, ahead)
    held = await find(record, "Observation", name)
    said = {"lowerLimit": signal.lower, "upperLimit": signal.upper}
    limits = {limit: value for limit, value in said.items() if value is not None}
    made: Resource = {
        "resourceType": "Observation",
        **({"extension": [clock_extension(ahead)]} if ahead else {}),
        "identifier": [name],
        "status": "final",
        "category": [_VITAL_SIGNS.concept()],
        "code": signal.concept,
        "subject": reference("Patient", str(patient_of(visit))),
        "encounter": reference("Encounter", visit["id"]),
        "effectivePeriod": {"start": zulu(minute), "end": zulu(minute + MINUTE)},
        "issued": zulu(now),
        **({} if device is None else {"device": device}),
        "valueSampledData": {
            "origin": {"value": 0, "unit": signal.unit, "system": UCUM, "code": signal.unit},
            "period": signal.period,
            **limits,
            "dimensions": 1,
        },
    }
    before = "" if held is None else str(held["valueSampledData"]["data"])
    data = put_in(before, samples, lambda there, new: is_graver(there, new, made, setting.alarms))
    made["valueSampledData"]["data"] = data
    if held is not None and data == before:
        return str(held["id"])
    if held is None:
        return (await record.create(made)).stored.id
    grown = {**held, "issued": made["issued"], "valueSampledData": {**held["valueSampledData"], **limits, "data": data}}
    return (await record.update(content_of(grown))).stored.id


def _parameters(call: OperationCall, setting: Setting) -> tuple[list[Signal], Resource | None]:
    device: Resource | None = None
    signals = []
    for parameter in call.parameters.get("parameter", []):
        if parameter.get("name") == "device" and "valueReference" in parameter:
            device = parameter["valueReference"]
        elif parameter.get("name") == "signal" and "part" in parameter:
            signals.append(_signal(parameter["part"], setting))
        else:
            raise BadRequest(
                f"$feed does not understand the parameter '{parameter.get('name')}' in this form. It has: device "
                "(valueReference), signal (with its parts).",
                expression=WHERE,
            )
    if not signals:
        raise BadRequest("$feed needs at least one signal.", code="required", expression=WHERE)
    return signals, device


def _signal(parts: list[Resource], setting: Setting) -> Signal:
    given: dict[str, Any] = dict.fromkeys(FORMS)
    given |= {str(one.get("name")): one.get(FORMS.get(str(one.get("name")), "")) for one in parts}
    wrong = sorted(name for name in given if name not in FORMS)
    lacking = [f"{name} ({form})" for name, form in FORMS.items() if name in _NEEDED and given[name] is None]
    if wrong or lacking:
        said = f"needs {', '.join(lacking)}" if lacking else f"does not have the part '{wrong[0]}'"
        raise BadRequest(f"A signal of $feed {said}.", code="required", expression=WHERE)
    codes, period, samples = codes_of(given["code"], LOINC), given["period"], tuple(str(given["data"]).split())
    try:
        start = interval(given["start"])[0]
    except ValueError:
        raise BadRequest("The part start of a signal is not an instant.", expression=WHERE) from None
    if not codes:
        raise BadRequest("A signal of $feed is told by its LOINC code.", code="required", expression=WHERE)
    if not samples or not all(is_sample(one) for one in samples):
        raise BadRequest("The data of a signal are numbers, E, U or L, separated by spaces.", expression=WHERE)
    if not 1 <= period <= Decimal(60_000):
        raise BadRequest("The period of a signal is 1 to 60,000 milliseconds.", code="value", expression=WHERE)
    if abs(start - setting.clock()) > FARTHEST:
        raise BadRequest("No clock of a device is wrong by so much: look at start.", code="value", expression=WHERE)
    limits = (None if given[name] is None else Decimal(str(given[name])) for name in ("lower", "upper"))
    signal = Signal(given["code"], codes[0], given["unit"], start, Decimal(period).normalize(), samples, *limits)
    if len(samples) * signal.apart > LONGEST:
        raise BadRequest("A signal spans an hour at most: send it in parts.", code="too-long", expression=WHERE)
    return signal
