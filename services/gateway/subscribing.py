"""Subscriptions as their clients see them: written, asked how they are, and for events that were missed.

Who a subscriber is, and so what he may see, is worked out anew for each request from what his token said when he asked
for the subscription: the clinic's roles and the patients' consents may have changed since (ADR 31).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from secrets import token_bytes
from typing import TYPE_CHECKING, Final, Self, cast

from services.gateway.notifications import notification, status, statuses
from services.gateway.subscriptions import CONTENTS, Asked, asked_by, kept
from services.gateway.telling import Telling
from services.gateway.topics import SubscriptionPolicy
from shared.fhir.ids import new_id
from shared.fhir.json import Resource, dump
from shared.fhir.outcome import BadRequest, Forbidden, NotFound, Unprocessable
from shared.http.backend import OperationResult, WriteResult, positions_of
from shared.http.outbound import Outside
from shared.runtime.policy import load_policy
from shared.runtime.raising import is_own_work, own_work
from shared.runtime.record import Record, open_record, prepare, valid
from shared.runtime.service import Change, OperationCall, Service
from shared.runtime.settings import SettingsError
from shared.security.caller import Caller, disclosure_of
from shared.security.envelope import opened, seal
from shared.security.roles import AccessPolicy, Roles
from shared.security.scopes import Scope, parse_scopes
from shared.store import subscriptions as store
from shared.store.behind import through
from shared.store.connection import retry_conflicts
from shared.store.subscriptions import Content, Subscribed

if TYPE_CHECKING:
    from uuid import UUID

    from shared.http.backend import RequestContext
    from shared.runtime.settings import Settings
    from shared.store.store import Store, Transaction

TYPE: Final = "Subscription"
MOST_EVENTS: Final = 1000
"""Of one answer of `$events`, and of those that `$status` counts at once."""


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


@dataclass(frozen=True, slots=True)
class Subscribing:
    """What is known of subscriptions beside the store.

    Attributes:
        policy: the topics.
        roles: of the clinic.
        inside: by clinic, the hosts inside of the network to which its notifications may go.
        most: Subscriptions that a client may have at one time.
        key: under which headers are kept.

    """

    policy: SubscriptionPolicy
    roles: Roles
    inside: Mapping[str, frozenset[str]] = field(default_factory=dict)
    most: int = 20
    key: bytes = field(default_factory=lambda: token_bytes(32), repr=False)

    @classmethod
    def of(cls, settings: Settings | None = None) -> Self:
        """Return it by settings; None: what is shipped, for a gateway whose worker is another process's matter."""
        policy = load_policy(None if settings is None else settings.policy)
        topics, roles = policy.section("subscriptions", SubscriptionPolicy), policy.section("access", AccessPolicy)
        if settings is None:
            return cls(topics, roles)
        inside = hosts_of(settings.subscriber_hosts)
        return cls(topics, roles, inside, settings.subscriptions_per_client, settings.header_key)

    # Who asks

    def outside(self, tenant: str) -> Outside:
        """Return where notifications of a clinic may go."""
        return Outside(self.inside.get(tenant, frozenset()), "KAP_SUBSCRIBER_HOSTS")

    def content(self, one: Subscribed, tenant: str) -> Content:
        """Return what notifications hold: whole resources leave the clinic only for somebody whom consents bind.

        Who is of the clinic reads all that he may; what his Subscription sends to a server outside no Consent stands
        behind (outbound, what no Consent permits is denied: interop.md section 3).
        """
        if one.content != "full-resource" or self.outside(tenant).names(one.endpoint):
            return one.content
        return one.content if self.caller(one, tenant).disclosure is not None else "id-only"

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
            grant=one.grant_id,
            token=one.token,
        )

    def asking(self, one: Subscribed, tenant: str) -> Caller:
        """Return the subscriber with those of his scopes by which he sees what his subscription is about."""
        caller = self.caller(one, tenant)
        return replace(caller, scopes=tuple(narrowed for each in caller.scopes for narrowed in _about(each, one.types)))

    def telling(
        self,
        transaction: Transaction,
        one: Subscribed,
        base_url: str,
        *,
        also: Caller | None = None,
        doubted: frozenset[UUID] = frozenset(),
    ) -> Telling:
        """Return what tells the subscriber, as he is now, in a transaction that holds the subscription's row."""
        caller = self.caller(one, transaction.tenant)
        return Telling(transaction, self.policy, one, caller, base_url, also, doubted)

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
        caller = context.caller
        outside = self.outside(caller.tenant)
        asked = asked_by(resource, self.policy, outside)
        if asked.content == "full-resource" and caller.disclosure is None and not outside.names(asked.endpoint):
            raise Unprocessable(
                "Whole resources are sent outside only to somebody of whom the patients' consents tell (a hospital, a "
                "partner), and this token is of the clinic. Ask for id-only and read them, or have whoever runs the "
                "installation list the host in KAP_SUBSCRIBER_HOSTS.",
                code="security",
                expression=["Subscription.channel.payload.extension"],
                rule="G-SUBSCRIPTION",
                source="interop.md section 3: outbound, what no Consent permits is denied",
            )
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
            anew = asked.status != "off" and (before is None or before.status == "off")
            if anew and await store.others_of(record.transaction, caller.client, id_) >= self.most:
                raise Unprocessable(
                    f"This client has {self.most} Subscriptions already, as many as it may. End one by DELETE.",
                    code="too-costly",
                    expression=[TYPE],
                    rule="G-SUBSCRIPTION",
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
            anew = before is not None and (before.topic, before.filters) != (row.topic, row.filters)
            await store.put(record.transaction, row, anew=anew)
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
                telling = self.telling(transaction, locked, context.base_url, doubted=_doubted(context))
                if telling.caller.owner == context.caller.owner:  # an operator only looks
                    await telling.next(MOST_EVENTS)
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
            telling = self.telling(transaction, one, context.base_url, also=context.caller, doubted=_doubted(context))
            if telling.caller.owner == context.caller.owner:
                await telling.next(MOST_EVENTS)
            shown = await telling.numbered(since, until, MOST_EVENTS)
            if content == "full-resource":
                shown = await telling.whole(shown)
            now = await store.find(transaction, one.id) or one
            said = status(
                one.id, one.topic, one.status, "query-event", now.last_number, context.base_url, shown, content=content
            )
            for each in shown:
                await transaction.note(telling.row(each, "events"))
        answer = notification(said, one.id, shown, content, context.base_url, datetime.now(UTC))
        behind = [consent for each in shown for consent in each.behind]
        consents = tuple(dict.fromkeys(one.consent for one in behind))
        return OperationResult(dump(answer), behind=consents, through=through(behind))


def _doubted(context: RequestContext) -> frozenset[UUID]:
    told = context.caller.disclosure
    return frozenset() if told is None else told.doubted


def hosts_of(said: str | None) -> dict[str, frozenset[str]]:
    """Return by clinic the hosts of `KAP_SUBSCRIBER_HOSTS`: ``clinic@host:port``, with commas.

    Raises:
        SettingsError: a host is of no clinic.

    """
    found: dict[str, frozenset[str]] = {}
    for one in filter(None, (part.strip() for part in (said or "").split(","))):
        clinic, of, host = one.partition("@")
        if not (clinic and of and host):
            raise SettingsError(f"KAP_SUBSCRIBER_HOSTS: '{one}' is not clinic@host or clinic@host:port.")
        found[clinic] = found.get(clinic, frozenset()) | Outside.of(host).listed
    return found


def _about(scope: Scope, types: Sequence[str]) -> Iterator[Scope]:
    """Yield what of a scope lets these types be read and searched."""
    letters = scope.letters & {"r", "s"}
    for type_ in types if letters else ():
        if scope.names(type_):
            yield replace(scope, type=type_, letters=letters)


_OF_CALLER: Final = ("client", "fhir_user", "role", "patient", "scopes", "outside", "everything", "grant_id", "token")


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
        grant_id=caller.grant,
        token=caller.token,
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
