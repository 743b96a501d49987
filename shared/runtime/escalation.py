"""Escalation: a Task that cannot wait climbs a ladder of people until one of them takes it.

    escalation = Escalation.of(policy)
    await escalation.raise_task(record, task, now)      # in the transaction of what it is about
    guards = {"Task": (escalation.guard,)}; timers = (escalation.timer(),)

Which ladder a Task climbs is said by its code (`policies/escalation.yaml`), and where it stands by its extension
`escalation`: all of it is in the Task, so a restart loses nothing, and a Task that lost its extension begins anew. A
step writes a Communication to each person on duty in the step's role (PractitionerRole) and has it sent. The ladder
climbs when the step's minutes are over, or at once where nobody could be told; at its top the last step is repeated.

It ends when a person takes the Task: `owner`, and `status` accepted, in-progress, or an end. The owner is somebody who
is known here, or who is logged in. A change that would end it otherwise is refused (T-OWNER, T-KEEP); so an escalation
is always either acknowledged or climbing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final, Self

import msgspec
from prometheus_client import Counter, Gauge

from shared.fhir.cited import Cited
from shared.fhir.codes import ESCALATION, EXT_ESCALATION, ID_COMMUNICATION, KAP, Code
from shared.fhir.dates import period_interval, zulu
from shared.fhir.freshness import Unheard
from shared.fhir.ids import new_id
from shared.fhir.json import Resource
from shared.fhir.kap import codes_of, id_in, moment, patient_of, reference
from shared.fhir.outcome import Unprocessable
from shared.fhir.raised import identifier, policy_extension
from shared.notify.telling import CATEGORY_SYSTEM, STATES, Letter, addresses_of, tell
from shared.runtime.ownership import INTAKE
from shared.runtime.policy import Policy, PolicyError
from shared.runtime.raising import OPEN_TASK, content_of, find, is_own_work, own_work
from shared.runtime.record import Record, prepare
from shared.runtime.service import Change
from shared.runtime.timers import Round, Timer

STEPS = Counter("kap_escalation_steps_total", "Steps that escalations took", ("service", "ladder", "reached"))
UNACKNOWLEDGED = Gauge("kap_escalations_unacknowledged", "Escalations that nobody has taken", ("service",))

EVERY: Final = timedelta(seconds=5)
"""How often the ladders are looked at."""

TAKEN: Final = frozenset(("accepted", "in-progress"))
_PEOPLE: Final = ("Practitioner", "PractitionerRole")
_CHANNELS: Final = ("pager", "sms", "email")

# -- the form of the policy -------------------------------------------------------------------------------------------


class Step(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Who is told, by the code of their PractitionerRole, and the minutes they have."""

    role: str
    minutes: int


class Ladder(Cited, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The steps, lowest first."""

    title: str
    steps: tuple[Step, ...]


class EscalationPolicy(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The section `escalation`: the ladders, and which of them a Task climbs, by its code."""

    ladders: dict[str, Ladder]
    tasks: dict[str, str]


# -- what a Task says -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a Task stands on its ladder.

    Attributes:
        since: when it began to climb; names the Communications of this climb.
        step: how many steps it has taken; 0: none yet.
        at: when it took the last.
        told: ids of the Communications of the last step.

    """

    since: datetime
    step: int
    at: datetime
    told: tuple[str, ...] = ()


def is_acknowledged(task: Resource) -> bool:
    """Tell whether a person has taken the Task, or it is over."""
    status = str(task.get("status"))
    return status not in OPEN_TASK or (status in TAKEN and has_owner(task))


def has_owner(task: Resource) -> bool:
    """Tell whether the Task names a person who has it."""
    return any(id_in(task.get("owner"), type_) is not None for type_ in _PEOPLE)


def standing_of(task: Resource, now: datetime) -> Standing:
    """Return where a Task stands; at the bottom, as of `now`, where it does not say."""
    inner: list[dict[str, Any]] = next(
        (one.get("extension", []) for one in task.get("extension", []) if one["url"] == EXT_ESCALATION), []
    )
    said = {one["url"]: one for one in inner if one["url"] != "told"}
    if not {"since", "step", "at"} <= said.keys():
        return Standing(now, 0, now)
    told = (id_in(one.get("valueReference"), "Communication") for one in inner if one["url"] == "told")
    return Standing(
        moment(said["since"].get("valueDateTime")),
        max(int(said["step"].get("valueInteger", 0)), 0),
        moment(said["at"].get("valueDateTime")),
        tuple(one for one in told if one is not None),
    )


def with_standing(task: Resource, ladder: str, standing: Standing, version: str) -> Resource:
    """Return the Task with where it stands written into it."""
    inner: list[dict[str, Any]] = [
        {"url": "ladder", "valueCode": ladder},
        {"url": "since", "valueDateTime": zulu(standing.since)},
        {"url": "step", "valueInteger": standing.step},
        {"url": "at", "valueDateTime": zulu(standing.at)},
        *({"url": "told", "valueReference": {"reference": f"Communication/{one}"}} for one in standing.told),
        policy_extension(version),
    ]
    others = [one for one in task.get("extension", []) if one["url"] != EXT_ESCALATION]
    return {**task, "extension": [*others, {"url": EXT_ESCALATION, "extension": inner}]}


def is_due(standing: Standing, ladder: Ladder, now: datetime, *, unreached: bool) -> bool:
    """Tell whether the next step is to be taken.

    `unreached`: nobody could be told at the last one. At the top that is tried again when its minutes are over. A step
    that lies in the future was taken by a clock that was wrong, and counts as long ago.
    """
    if standing.step == 0 or (unreached and standing.step < len(ladder.steps)):
        return True
    wait = timedelta(minutes=ladder.steps[min(standing.step, len(ladder.steps)) - 1].minutes)
    return not timedelta(0) <= now - standing.at < wait


# -- what it does -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Escalation:
    """The ladders of the policy, and its version."""

    policy: EscalationPolicy
    version: str
    _waiting: dict[str, int] = field(default_factory=dict, init=False, repr=False, compare=False)  # by clinic

    @classmethod
    def of(cls, policy: Policy) -> Self:
        """Return the escalation under a policy.

        Raises:
            PolicyError: a ladder has no step, or one without minutes, or a Task is to climb one that there is not.

        """
        read = policy.section("escalation", EscalationPolicy)
        for name, ladder in read.ladders.items():
            if not ladder.steps or any(step.minutes < 1 for step in ladder.steps):
                raise PolicyError(f"escalation.ladders.{name} needs steps, each of a minute or more.")
        for code, name in read.tasks.items():
            if name not in read.ladders:
                raise PolicyError(f"escalation.tasks.{code} names '{name}', which is no ladder.")
        return cls(read, policy.version)

    def ladder_of(self, task: Resource) -> str | None:
        """Return the name of the ladder that a Task climbs, None where it waits as long as it must."""
        return next(
            (self.policy.tasks[one] for one in codes_of(task.get("code"), KAP) if one in self.policy.tasks), None
        )

    async def raise_task(self, record: Record, task: Resource, now: datetime, *, reopen: bool = False) -> None:
        """Create a Task once, by its identifier, and tell the first on its ladder, in this transaction.

        With `reopen`, one that was ended climbs again from the bottom. One that is open is left as it is.

        Raises:
            ValueError: its code has no ladder.

        """
        existing = await find(record, "Task", task["identifier"][0])
        if existing is not None and (not reopen or existing["status"] in OPEN_TASK):
            return
        named = {**task, "id": new_id() if existing is None else existing["id"]}
        standing = await self._step(record, named, Standing(now, 0, now), now)
        ready = with_standing(named, self._ladder(task)[0], standing, self.version)
        with own_work():
            if existing is None:
                await record.create(prepare(ready, ready["id"]))
            else:
                await record.update(ready)

    async def guard(self, change: Change, record: Record) -> None:
        """Guard of Task: what climbs is neither removed nor silenced, and taken by somebody who is known."""
        before, after = change.before, change.after
        if is_own_work() or before is None or self.ladder_of(before) is None:
            return
        if is_acknowledged(before):  # and from one to the next it goes to somebody who is known, too
            if before["status"] in OPEN_TASK and after is not None and after.get("owner") != before.get("owner"):
                await _require_known(after, record)
            return
        if (
            after is None
            or self.ladder_of(after) != self.ladder_of(before)
            or after["status"] in ("rejected", "failed")
        ):
            raise Unprocessable(
                "This Task climbs a ladder of people until one of them takes it. It is neither deleted nor rejected, "
                "and keeps its code: leave it requested, and the next is told, or take it: status accepted, and owner.",
                code="business-rule",
                expression=["Task.status"],
                rule="T-KEEP",
                source="KAP Exchange",
            )
        if after["status"] in TAKEN | {"completed", "cancelled", "entered-in-error"} and not has_owner(after):
            raise Unprocessable(
                "Say who takes it: give Task.owner, a Reference to a Practitioner or PractitionerRole.",
                code="required",
                expression=["Task.owner"],
                rule="T-OWNER",
                source="KAP Exchange",
            )
        if is_acknowledged(after):
            await _require_known(after, record)

    def timer(self) -> Timer:
        """Return the timer that climbs."""
        return Timer("escalation", EVERY, self.climb)

    async def climb(self, one: Round) -> None:
        """Take the next step of every Task that is due."""
        codes = ",".join(Code(KAP, code).token() for code in sorted(self.policy.tasks))
        found = await one.search("Task", {"code": codes, "status": ",".join(sorted(OPEN_TASK))})
        waiting = [task for task in found if not is_acknowledged(task)]
        self._waiting[one.tenant] = len(waiting)
        UNACKNOWLEDGED.labels(one.service.name).set(sum(self._waiting.values()))

        async def work(task: Resource, record: Record) -> None:
            if is_acknowledged(task) or self.ladder_of(task) is None:
                return
            name, ladder = self._ladder(task)
            standing = standing_of(task, one.now)
            if is_due(standing, ladder, one.now, unreached=await _is_unreached(record, standing)):
                reached = await self._step(record, task, standing, one.now)
                with own_work():
                    await record.update(content_of(with_standing(task, name, reached, self.version)))

        await one.each(waiting, work)

    def _ladder(self, task: Resource) -> tuple[str, Ladder]:
        name = self.ladder_of(task)
        if name is None:
            raise ValueError("a Task is to climb, and its code has no ladder")
        return name, self.policy.ladders[name]

    async def _step(self, record: Record, task: Resource, standing: Standing, now: datetime) -> Standing:
        """Tell the people of the next step; return where the Task stands after it."""
        name, ladder = self._ladder(task)
        step = ladder.steps[min(standing.step, len(ladder.steps) - 1)]
        letter = Letter(
            topic=ESCALATION,
            subject=ladder.title,
            text=f"{ladder.title}. Task/{task['id']}, raised {task.get('authoredOn', zulu(now))}: nobody has taken it "
            "yet. Open it in the record, and take it by accepting it in your name.",
            category="alert",
            about=[f"Task/{task['id']}"],
            encounter=id_in(task.get("encounter"), "Encounter"),
            channels=_CHANNELS,
            urgent=True,
        )
        key = ("escalation", str(task["id"]), zulu(standing.since), str(standing.step + 1))
        patient = patient_of(task)
        told = [
            await tell(record, (*key, str(one["id"])), letter, to=one, now=now, patient=patient)
            for one in await on_duty(record, step.role, now)
        ]
        ids = [one.communication for one in told]
        if not ids:
            ids = [await _told_nobody(record, key, letter, step.role, patient)]
        reached = any(one.state != "failed" for one in told)
        STEPS.labels(record.service.name, name, "yes" if reached else "no").inc()
        return Standing(standing.since, standing.step + 1, now, tuple(ids))


async def _require_known(task: Resource, record: Record) -> None:
    """Refuse an owner whom nobody knows here: in his name nobody would come.

    Who is logged in is known, however late the news of him is.

    Raises:
        Unprocessable: T-OWNER; says how old what is known of people is.

    """
    owner = task.get("owner")
    for type_ in _PEOPLE:
        id_ = id_in(owner, type_)
        if id_ is None or f"{type_}/{id_}" == record.user or await record.get(type_, id_) is not None:
            continue
        late = ""
        if INTAKE in record.service.consumes:
            late = f" ({Unheard(INTAKE, await record.knowledge_age(INTAKE))})"
        raise Unprocessable(
            f"{type_}/{id_} is not known here{late}. Take it in your own name, or name a Practitioner or "
            "PractitionerRole who is registered; of one who was registered just now, try again.",
            code="business-rule",
            expression=["Task.owner"],
            rule="T-OWNER",
            source="KAP Exchange",
        )


async def _told_nobody(record: Record, name: Sequence[str], letter: Letter, role: str, patient: str | None) -> str:
    """Write the Communication of a step that there was nobody for; return its id."""
    made = {
        "resourceType": "Communication",
        "identifier": [identifier(ID_COMMUNICATION, *name)],
        "status": "not-done",
        "statusReason": {"text": f"Nobody is on duty as {role}: no PractitionerRole with this code is active."},
        "category": [Code(CATEGORY_SYSTEM, letter.category).concept()],
        "priority": "urgent",
        "subject": None if patient is None else reference("Patient", patient),
        "topic": letter.topic.concept(text=letter.subject),
        "about": [{"reference": one} for one in letter.about],
        "payload": [{"contentString": letter.text}],
    }
    with own_work():
        return (await record.create({key: value for key, value in made.items() if value is not None})).stored.id


async def on_duty(record: Record, role: str, now: datetime) -> Sequence[Resource]:
    """Return the PractitionerRoles of a duty that are active and in force, with their own address or the person's.

    One that has no address is returned, too: that nobody could be told is then on record.
    """
    found = []
    for one in await record.search("PractitionerRole", {"role": Code(KAP, role).token()}):
        period = period_interval(one.get("period", {}))
        if one.get("active", True) and (period is None or period[0] <= now < period[1]):
            found.append(await _with_address(record, one, now))
    return found


async def _with_address(record: Record, role: Resource, now: datetime) -> Resource:
    person = id_in(role.get("practitioner"), "Practitioner")
    if addresses_of(role, now) or person is None:
        return role
    held: Mapping[str, Any] = await record.get("Practitioner", person) or {}
    return {**role, "telecom": held.get("telecom", [])}


async def _is_unreached(record: Record, standing: Standing) -> bool:
    """Tell whether nobody was told by the last step: nobody was on duty, or no message could be delivered."""
    if standing.step == 0:
        return False
    for id_ in standing.told:
        held = await record.get("Communication", id_)
        if held is not None and STATES.get(held["status"], "queued") != "failed":
            return False
    return True
