"""Subscriptions as their clients see them: written, asked how they are, and for events that were missed.

Who a subscriber is, and so what he may see, is worked out anew for each request from what his token said when he asked
for the subscription: the clinic's roles and the patients' consents may have changed since (ADR 31).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from secrets import token_bytes
from typing import TYPE_CHECKING, Final, Self, cast

from services.gateway.notifications import Shown, notification, status, statuses
from services.gateway.subscriptions import CONTENTS, Asked, asked_by, kept
from services.gateway.topics import SubscriptionPolicy
from services.gateway.whose import key_of
from shared.fhir.extraction import labels_of
from shared.fhir.ids import new_id
from shared.fhir.json import Resource, dump, parse
from shared.fhir.outcome import BadRequest, Forbidden, NotFound, Unprocessable
from shared.http.backend import OperationResult, WriteResult, positions_of
from shared.http.outbound import Outside
from shared.runtime.policy import load_policy
from shared.runtime.raising import is_own_work, own_work
from shared.runtime.record import Record, open_record, prepare, valid
from shared.runtime.service import Change, Operation, OperationCall, Service
from shared.security.audit import row_of
from shared.security.caller import Caller, disclosure_of
from shared.security.envelope import opened, seal
from shared.security.roles import AccessPolicy, Roles
from shared.security.scopes import parse_scopes
from shared.store import subscriptions as store
from shared.store.connection import retry_conflicts
from shared.store.subscriptions import Content, Event, Subscribed, Told
from shared.store.visibility import PART_2

if TYPE_CHECKING:
    from shared.http.backend import RequestContext
    from shared.runtime.settings import Settings
    from shared.store.access import Access
    from shared.store.audit import Row
    from shared.store.store import Store, Transaction

TYPE: Final = "Subscription"
MOST_EVENTS: Final = 1000
"""Of one answer of `$events`, and of those that `$status` counts at once."""


def _with_notice_only(body: bytes, access: Access) -> bool:
    """Tell whether a resource goes as its reference: what is of a programme under 42 CFR Part 2 is read, by itself."""
    return access.disclosure is not None and PART_2 in labels_of(parse(body))


async def alone(_change: Change, _record: Record) -> None:
    """Refuse a Subscription that comes in any other way than by itself: whose it is would not be known.

    Raises:
        Unprocessable: it does.

    """
    if not is_own_work():
        raise Unprocessable(
            "A Subscription is created by POST Subscription, changed by PUT and ended by DELETE of its id: not in a "
            "transaction, by a condition, by PATCH or by $meta-add.",
            code="not-supported",
            expression=[TYPE],
            rule="G-SUBSCRIPTION",
        )


async def _answered_here(call: OperationCall, _record: Record) -> Resource:
    raise NotFound(f"{call.type}/${call.name} is asked over FHIR only.")


_DEFINED: Final = "http://hl7.org/fhir/uv/subscriptions-backport/OperationDefinition/backport-subscription-"
STATUS: Final = tuple(
    Operation(
        "status", TYPE, level, _answered_here, affects_state=False, definition=f"{_DEFINED}status",
        documentation="How subscriptions are. Parameters at type level: id, status.",
    )
    for level in ("instance", "type")
)  # fmt: skip
EVENTS: Final = Operation(
    "events", TYPE, "instance", _answered_here, affects_state=False, definition=f"{_DEFINED}events",
    documentation="Events that were missed. Parameters: eventsSinceNumber, eventsUntilNumber, content.",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Subscribing:
    """What is known of subscriptions beside the store.

    Attributes:
        policy: the topics.
        roles: of the clinic.
        outside: where notifications may go.
        key: under which headers are kept.

    """

    policy: SubscriptionPolicy
    roles: Roles
    outside: Outside = field(default_factory=Outside)
    key: bytes = field(default_factory=lambda: token_bytes(32), repr=False)

    @classmethod
    def of(cls, settings: Settings | None = None) -> Self:
        """Return it by settings; None: what is shipped, for a gateway whose worker is another process's matter."""
        policy = load_policy(None if settings is None else settings.policy)
        topics, roles = policy.section("subscriptions", SubscriptionPolicy), policy.section("access", AccessPolicy)
        if settings is None:
            return cls(topics, roles)
        return cls(topics, roles, Outside.of(settings.outbound_hosts), settings.header_key)

    # Who asks

    def caller(self, one: Subscribed, tenant: str) -> Caller:
        """Return the subscriber as he is now."""
        told = one.role is not None or one.outside
        return Caller(
            tenant=tenant,
            client=one.client,
            user=one.fhir_user,
            role=one.role,
            patient=one.patient,
            scopes=parse_scopes(one.scopes),
            disclosure=disclosure_of(self.roles, one.role, one.fhir_user) if told else None,
            everything=one.everything,
        )

    def headers(self, one: Subscribed, tenant: str) -> dict[str, str]:
        """Return the headers of a subscription in the clear."""
        found: dict[str, str] = json.loads(opened(self.key, one.headers, f"{tenant} {one.id}"))
        return found

    # Writing

    async def write(
        self, service: Service, held: Store, context: RequestContext, resource: Resource, *, expected: int | None = None
    ) -> WriteResult:
        """Create a Subscription, or where it bears an id change it; it is begun anew with a handshake.

        Raises:
            BadRequest, Unprocessable: it is not one, or cannot be done here.
            Forbidden: of what the topic is about the token lets its bearer see nothing.
            NotFound: there is none of this id for the caller.

        """
        id_ = str(resource.get("id") or new_id())
        resource = valid(resource, id_)
        asked = asked_by(resource, self.policy, self.outside)
        caller = context.caller
        for letter in ("r", "s"):
            if not caller.may(asked.topic.resource, letter):
                raise Forbidden(
                    f"The topic is about {asked.topic.resource}, of which this token lets its bearer see nothing. Ask "
                    f"for one with the scope {asked.topic.resource}.rs.",
                    expression=["Subscription.criteria"],
                )
        return await retry_conflicts(lambda: self._write(service, held, context, resource, asked, expected))

    async def _write(
        self,
        service: Service,
        held: Store,
        context: RequestContext,
        resource: Resource,
        asked: Asked,
        expected: int | None,
    ) -> WriteResult:
        id_, caller = str(resource["id"]), context.caller
        async with open_record(
            service,
            held,
            context.access,
            keys=(f"{TYPE}/{id_}",),
            request_id=context.request_id,
            traceparent=context.traceparent,
        ) as record:
            before = await store.find(record.transaction, id_, lock=True)
            known = {} if before is None else self.headers(before, caller.tenant)
            headers = {name: known.get(name) if text is None else text for name, text in asked.headers.items()}
            lacking = [name for name, text in headers.items() if text is None]
            if lacking:
                raise Unprocessable(
                    f"The value of {', '.join(lacking)} is not kept here: send it.", expression=["Subscription.channel"]
                )
            owner = caller.owner
            if before is not None:  # an operator who changes it does not make it his
                owner = self.caller(before, caller.tenant).owner
            ready = prepare(kept(resource, asked.status, owner), id_)
            with own_work():
                if before is None and not service.fixed_ids:
                    written = await record.create(ready)
                else:
                    written = await record.update(ready, expected=expected)
            sealed = seal(self.key, json.dumps(headers).encode(), f"{caller.tenant} {id_}")
            row = _row(id_, asked, caller, sealed)
            if before is not None and owner != caller.owner:
                row = replace(
                    row,
                    **{name: getattr(before, name) for name in _OF_CALLER},
                )
            await store.put(record.transaction, row)
        return WriteResult(written.stored, written.created, positions_of(record.written, caller.tenant))

    async def delete(
        self, service: Service, held: Store, context: RequestContext, id_: str, *, expected: int | None
    ) -> WriteResult | None:
        """End a Subscription for good; None where that was done before."""
        async with open_record(
            service, held, context.access, keys=(f"{TYPE}/{id_}",), request_id=context.request_id
        ) as record:
            with own_work():
                written = await record.delete(TYPE, id_, expected=expected)
            await store.remove(record.transaction, id_)
        if written is None:
            return None
        return WriteResult(written.stored, created=False, positions=positions_of(record.written, context.access.tenant))

    # What can be told

    async def settled(
        self, transaction: Transaction, one: Subscribed, events: Sequence[Event], *, also: Access | None = None
    ) -> list[Shown]:
        """Return of these events those that the subscriber may know of now, each with its number.

        What he may not know of is gone for good where he was never told of it. With `also` somebody else asks, who has
        to see it himself.
        """
        told = Told(transaction, one.id)
        access = self.caller(one, transaction.tenant).access("s")
        shown = []
        for event in events:
            seen = await transaction.find(access, event.type, event.id)
            if seen is None:
                if event.number is None:
                    await told.drop(event.place)
                else:
                    await told.taken([event.place])
                continue
            number = event.number if event.number is not None else await told.number(event.place)
            if also is None or await transaction.find(also, event.type, event.id) is not None:
                key = key_of(seen)
                shown.append(Shown(event, number, key.removeprefix("Patient/") if key.startswith("Patient/") else None))
        return shown

    async def whole(
        self, transaction: Transaction, one: Subscribed, shown: Sequence[Shown], *, also: Access | None = None
    ) -> list[Shown]:
        """Return events with their resources, as the subscriber may read them now."""
        reads = [self.caller(one, transaction.tenant).access("r"), *(() if also is None else (also,))]
        found = []
        for each in shown:
            event = each.event
            seen = [await transaction.find(access, event.type, event.id) for access in reads]
            first = seen[0]
            if first is None or None in seen or first.deleted or _with_notice_only(first.body, reads[0]):
                found.append(each)
                continue
            body = first.body
            if event.version != first.version:
                try:
                    versions = [
                        await transaction.read_version(access, event.type, event.id, event.version) for access in reads
                    ]
                    body = versions[0].body
                except NotFound:  # of earlier versions he may know nothing; of the present one he does
                    pass
            found.append(replace(each, resource=parse(body)))
        return found

    # Asking

    async def status(self, held: Store, context: RequestContext, call: OperationCall) -> OperationResult:
        """Answer `$status`, of one or of all of the caller's."""
        given = _given(call.parameters, ("id", "status"))
        async with held.transaction(keys=(), tenant=context.access.tenant) as transaction:
            wanted = [call.id] if call.id is not None else given.get("id")
            rows = [
                one
                for one in await store.every(transaction)
                if (wanted is None or one.id in wanted) and (call.id or one.status in given.get("status", [one.status]))
            ]
            said = []
            for one in rows:
                if await transaction.find(context.access, TYPE, one.id) is None:
                    continue
                locked = await store.find(transaction, one.id, lock=True) or one
                told = Told(transaction, one.id)
                if self.caller(one, transaction.tenant).owner == context.caller.owner:  # an operator only looks
                    await self.settled(transaction, locked, await told.waiting(MOST_EVENTS))
                now = await store.find(transaction, one.id) or one
                said.append(
                    status(
                        one.id, one.topic, one.status, "query-status", now.last_number, context.base_url,
                        error=one.error,
                    )
                )  # fmt: skip
            if call.id is not None and not said:
                raise NotFound(f"There is no {TYPE}/{call.id} here.")
        return OperationResult(dump(statuses(said, datetime.now(UTC))))

    async def events(self, held: Store, context: RequestContext, call: OperationCall) -> OperationResult:
        """Answer `$events`: what the subscriber may know of, by numbers; what waits for him is sent all the same.

        Raises:
            BadRequest: a parameter cannot be understood.
            NotFound: there is no such Subscription for the caller.

        """
        given = _given(call.parameters, ("eventsSinceNumber", "eventsUntilNumber", "content"))
        since, until = _number(given, "eventsSinceNumber", 1), _number(given, "eventsUntilNumber", 2**62)
        async with held.transaction(keys=(), tenant=context.access.tenant) as transaction:
            found = await transaction.find(context.access, TYPE, str(call.id))
            one = None if found is None else await store.find(transaction, str(call.id), lock=True)
            if one is None:
                raise NotFound(f"There is no {TYPE}/{call.id} here.")
            content: Content = one.content
            if "content" in given:
                named = given["content"][0]
                if named not in CONTENTS or CONTENTS.index(named) > CONTENTS.index(one.content):
                    raise BadRequest(
                        f"content is at most what the Subscription asks for: {one.content}.", code="value",
                        expression=["http.content"],
                    )  # fmt: skip
                content = cast("Content", named)
            told = Told(transaction, one.id)
            if self.caller(one, transaction.tenant).owner == context.caller.owner:
                await self.settled(transaction, one, await told.waiting(MOST_EVENTS))
            numbered = await told.numbered(since, until, MOST_EVENTS)
            shown = await self.settled(transaction, one, numbered, also=context.access)
            if content == "full-resource":
                shown = await self.whole(transaction, one, shown, also=context.caller.access("r"))
            now = await store.find(transaction, one.id) or one
            said = status(
                one.id, one.topic, one.status, "query-event", now.last_number, context.base_url, shown, content=content
            )
            for each in shown:
                await transaction.note(disclosed(self.caller(one, transaction.tenant), one, each, "events"))
        answer = notification(said, one.id, shown, content, context.base_url, datetime.now(UTC))
        return OperationResult(dump(answer))


def disclosed(caller: Caller, one: Subscribed, shown: Shown, does: str, *, consents: Sequence[str] = ()) -> Row:
    """Return the row of the audit of an event that is told."""
    event, told = shown.event, caller.disclosure
    return row_of(
        "gateway",
        "disclose",
        does,
        "E",
        tenant=caller.tenant,
        client=one.client,
        role=one.role,
        recipient=(one.client if told is None else next(iter(sorted(told.recipients)), one.client)) or "anybody",
        authorisation=", ".join(consents) or (None if told is None else "by-consent"),
        purpose=() if told is None else tuple(sorted(told.purposes)),
        patients=() if shown.patient is None else (shown.patient,),
        what=(f"{event.type}/{event.id}/_history/{event.version}", f"{TYPE}/{one.id}"),
    )


_OF_CALLER: Final = ("client", "fhir_user", "role", "patient", "scopes", "outside", "everything")


def _row(id_: str, asked: Asked, caller: Caller, sealed: bytes) -> Subscribed:
    return Subscribed(
        id=id_,
        status=asked.status,
        topic=asked.criteria,
        types=(asked.topic.resource,),
        filters=asked.filters,
        client=caller.client,
        fhir_user=caller.user,
        role=caller.role,
        patient=caller.patient,
        scopes=" ".join(str(one) for one in caller.scopes),
        outside=caller.disclosure is not None,
        everything=caller.everything,
        endpoint=asked.endpoint,
        headers=sealed,
        content=asked.content,
        heartbeat=asked.heartbeat,
        timeout=asked.timeout,
        most=asked.most,
        ends_at=asked.ends_at,
    )


def _given(parameters: Resource, names: Sequence[str]) -> Mapping[str, list[str]]:
    found: dict[str, list[str]] = {}
    for one in parameters.get("parameter", ()):
        name = str(one.get("name"))
        value = next((one[member] for member in one if member.startswith("value")), None)
        if name not in names or isinstance(value, dict | list | None):
            raise BadRequest(
                f"There is no parameter '{name}' here. There are: {', '.join(names)}.", code="not-supported",
                expression=[f"http.{name}"],
            )  # fmt: skip
        found.setdefault(name, []).extend(str(value).split(","))
    return found


def _number(given: Mapping[str, list[str]], name: str, otherwise: int) -> int:
    text = given.get(name, [str(otherwise)])[0]
    if not text.isdecimal() or len(text) > 19:
        raise BadRequest(f"{name} is the number of an event.", code="value", expression=[f"http.{name}"])
    return min(int(text), 2**62)
