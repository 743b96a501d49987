"""A service's life in this process: database, listener, relay, consumer, its own tasks; started, watched, stopped.

Order of stopping: the listener first (requests in flight are finished), then the tasks, then the database's
connections. A task that raises is a fault: it is logged, counted, and started again after a pause; `/livez` fails while
a task makes no progress.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Final, TypeVar

import structlog
from fastapi import FastAPI
from prometheus_client import Counter
from starlette.applications import Starlette
from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_delay, wait_exponential

from shared.events.consumer import EventConsumer
from shared.events.kafka import KafkaConnection
from shared.events.producer import EventProducer
from shared.events.relay import Relay
from shared.fhir.freshness import KnowledgePolicy
from shared.fhir.outcome import Unavailable
from shared.http.app import create_fhir_app
from shared.http.audit_ops import audit_routes
from shared.http.health import Progress, Watchdog, health_routes
from shared.http.local import LocalBackend
from shared.http.ops import ops_routes
from shared.http.server import listening
from shared.runtime.anchoring import Anchoring
from shared.runtime.app import App, Background, Parts
from shared.runtime.consume import ServiceEvents
from shared.runtime.housekeeping import EVERY, Housekeeping
from shared.runtime.knowledge import require_news_of_consents, watch
from shared.runtime.logging import fault
from shared.runtime.policy import load_policy
from shared.runtime.relabelling import Relabelling
from shared.runtime.replaying import Replaying
from shared.runtime.retention import AuditPolicy
from shared.runtime.timers import TimerTask
from shared.runtime.tls import client_context, server_context
from shared.security.audit import Auditing
from shared.security.bearer import bearer, open_client
from shared.security.caller import everybody
from shared.security.discovery import oauth_uris, smart_configuration
from shared.security.roles import AccessPolicy
from shared.store.migrate import migrate
from shared.store.outbox import open_outbox
from shared.store.reindex import reindex
from shared.store.store import Store
from shared.store.timers import TimerLocks

if TYPE_CHECKING:
    from uuid import UUID

    from shared.events.handler import EventHandler
    from shared.security.labels import Labels

_T = TypeVar("_T")

_log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

TASK_FAULTS = Counter("kap_task_faults_total", "Times a task of a process ended by a fault", ("service", "task"))

_DATABASE_SECONDS: Final = 60.0
"""How long a starting process waits for its database."""

_STALLED_AFTER: Final = 60.0
"""Seconds without progress after which the relay or the consumer counts as stalled; both beat when idle, too."""

_CONNECTIONS_FOR_REQUESTS: Final = 2
"""Of the pool's connections, those that the consumer leaves to requests."""

_PAUSE: Final = 0.5
_LONGEST_PAUSE: Final = 15.0


@dataclass(frozen=True, slots=True)
class Task:
    """Something that runs as long as the process, and what watches it."""

    name: str
    run: Callable[[], Awaitable[None]]
    watchdog: Watchdog


@dataclass(frozen=True, slots=True)
class Opened:
    """A service whose database is connected: its ASGI application and the tasks that are to run beside it.

    `health` answers at a port of its own; None: the application does.
    """

    app: App
    parts: Parts
    asgi: FastAPI
    tasks: Sequence[Task]
    health: Starlette | None = None


@asynccontextmanager
async def opened(app: App) -> AsyncIterator[Opened]:
    """Connect a service's database and build its application; nothing runs yet.

    Raises:
        Unavailable: the database is not reached.
        SchemaMismatch: the database's schema is not this version's.

    """
    settings, service = app.settings, app.service
    async with AsyncExitStack() as closing:
        store = await Store.connect(
            settings.dsn,
            service=service.name,
            publishes=service.publishes,
            max_size=settings.database_connections,
            costliest_search=settings.search_cost,
        )
        closing.push_async_callback(store.close)
        origin = None if app.shows_copies else service.name
        authenticate, issuer = everybody(origin=origin), None
        if settings.issuer is not None and not settings.no_auth:
            roles = load_policy(settings.policy).section("access", AccessPolicy)
            client = open_client(client_context(settings))
            closing.push_async_callback(client.aclose)
            authenticate, issuer = bearer(
                settings.issuer,
                settings.audiences,
                client,
                origin=origin,
                roles=roles,
                names=settings.claim_names,
                at=settings.issuer_at,
                clinic=settings.clinic,
                base=settings.base_url,
            )
        parts = Parts(service, settings, store, authenticate, closing, issuer)
        tasks = _tasks(app, parts)
        backend = None
        if "api" in settings.roles and app.fhir:
            backend = app.backend(parts) if app.backend is not None else LocalBackend(service, store)
        before = list(app.routes(parts)) if app.routes is not None else []
        if app.fhir and issuer is not None:
            before.append(smart_configuration(issuer))
        health = health_routes(service.name, lambda: [task.watchdog for task in tasks], store.ping)
        apart = settings.health_port is not None
        asgi = create_fhir_app(
            service,
            backend,
            settings,
            authenticate=authenticate,
            interactions=app.interactions,
            before=before,
            routes=[
                *(() if apart else health),
                *ops_routes(service, store, partitions=settings.topic_partitions),
                *audit_routes(store.audit, settings.base_url),
            ],
            middleware=app.middleware,
            consents_known=partial(_consents_known, app, store),
            security=None if issuer is None else partial(oauth_uris, issuer),
            auditing=Auditing(
                store.audit,
                service.name,
                load_policy(settings.policy).version,
                None if app.audits is None else app.audits(parts),
            ),
        )
        yield Opened(app, parts, asgi, tasks, Starlette(routes=health) if apart else None)


async def _consents_known(app: App, store: Store, tenant: str) -> frozenset[UUID]:
    """Pass where what is known of consents is as new as it has to be to tell somebody outside of the clinic anything.

    Returns:
        The patients of whom it is not known.

    Raises:
        Unavailable: it is not, or this service does not hold consents.

    """
    service = app.service
    if "Consent" in service.types and not app.shows_copies:
        return frozenset()
    news = load_policy(app.settings.policy).section("knowledge", KnowledgePolicy).disclosure
    return await require_news_of_consents(service, store, news, tenant)


def _tasks(app: App, parts: Parts) -> list[Task]:
    return [*_work(app, parts), _anchoring(parts)]


def _anchoring(parts: Parts) -> Task:
    progress = Progress()
    anchoring = Anchoring(parts.store.audit, parts.settings.audit_anchors)
    return Task("audit", partial(anchoring.run, progress.beat), Watchdog("audit", _STALLED_AFTER, progress.age))


def _work(app: App, parts: Parts) -> list[Task]:
    if "worker" not in app.settings.roles:
        return [_background(one, parts) for one in app.background if one.role in app.settings.roles]
    settings, service = app.settings, app.service
    kafka = KafkaConnection(bootstrap=settings.kafka_bootstrap, client_id=f"kap-{service.name}")
    tasks = []
    if service.publishes:
        relay = Relay(
            lambda: open_outbox(settings.dsn, service=service.name),
            EventProducer(kafka, service=service.name, partitions=settings.topic_partitions),
            service=service.name,
            watermark_seconds=settings.watermark_seconds,
        )
        tasks.append(Task("relay", relay.run, Watchdog("relay", _STALLED_AFTER, relay.progress_age_seconds)))
        tasks.append(
            _replaying(parts, EventProducer(kafka, service=service.name, partitions=settings.topic_partitions))
        )
    if service.consumes:
        events = ServiceEvents(service, parts.store)
        handler: EventHandler = events if app.handler is None else app.handler(parts)
        if isinstance(handler, ServiceEvents):
            tasks.append(_take_up(handler))
        consumer = EventConsumer(
            kafka,
            handler,
            service=service.name,
            sources=service.consumes,
            partitions=settings.topic_partitions,
            group_instance_id=f"{service.name}-{socket.gethostname()}-{settings.port}",
            concurrency=max(1, settings.database_connections - _CONNECTIONS_FOR_REQUESTS),
        )
        tasks.append(
            Task("consumer", consumer.run, Watchdog("consumer", _STALLED_AFTER, consumer.progress_age_seconds))
        )
    if service.publishes or service.consumes:
        tasks.append(_knowledge(parts))
        tasks.append(_housekeeping(parts))
    if service.labels is not None:
        tasks.append(_relabelling(parts, service.labels))
    tasks.extend(_timers(parts))
    tasks.extend(_background(one, parts) for one in app.background if one.role in settings.roles)
    return tasks


def _background(background: Background, parts: Parts) -> Task:
    progress = Progress()

    async def run() -> None:
        await background.run(parts, progress.beat)

    return Task(background.name, run, Watchdog(background.name, background.stalled_after, progress.age))


def _take_up(events: ServiceEvents) -> Task:
    """Return the task that applies parked events again once a person has said so."""
    progress = Progress()
    return Task(
        "parked", partial(events.take_up_forever, progress.beat), Watchdog("parked", _STALLED_AFTER, progress.age)
    )


def _housekeeping(parts: Parts) -> Task:
    progress, settings = Progress(), parts.settings
    keeping = Housekeeping(
        parts.service.name,
        parts.store.pruning,
        outbox=timedelta(days=settings.outbox_days),
        inbox=timedelta(days=settings.inbox_days),
        audit=parts.store.audit,
        audit_kept=load_policy(settings.policy).section("audit", AuditPolicy).retention.period,
    )
    return Task("housekeeping", partial(keeping.run, progress.beat), Watchdog("housekeeping", 2 * EVERY, progress.age))


def _replaying(parts: Parts, producer: EventProducer) -> Task:
    progress = Progress()
    replaying = Replaying(parts.service.name, parts.store.replay, producer)
    return Task("replay", partial(replaying.run, progress.beat), Watchdog("replay", _STALLED_AFTER, progress.age))


def _relabelling(parts: Parts, labels: Labels) -> Task:
    progress = Progress()
    relabelling = Relabelling(parts.service, labels, parts.store)
    return Task(
        "labelling", partial(relabelling.run, progress.beat), Watchdog("labelling", _STALLED_AFTER, progress.age)
    )


def _knowledge(parts: Parts) -> Task:
    progress = Progress()
    return Task(
        "knowledge",
        partial(watch, parts.service, parts.store, progress.beat),
        Watchdog("knowledge", _STALLED_AFTER, progress.age),
    )


def _timers(parts: Parts) -> list[Task]:
    service = parts.service
    if not service.timers:
        return []
    locks = TimerLocks(parts.settings.dsn, service.name)
    parts.closing.push_async_callback(locks.close)
    running = [TimerTask(timer, service, parts.store, locks) for timer in service.timers]
    return [
        Task(
            f"timer {one.timer.name}",
            one.run,
            Watchdog(f"timer {one.timer.name}", one.stalled_after, one.progress.age, one.trouble),
        )
        for one in running
    ]


async def keep_running(task: Task, service: str) -> None:
    """Run a task until cancelled; begin it again, after a pause that grows, whenever it ends."""
    failures = 0
    while True:
        try:
            await task.run()
        except Exception as error:  # noqa: BLE001 - whatever it was, the process's other work goes on
            _log.error("task_failed", service=service, task=task.name, **fault(error))
        else:
            _log.error("task_ended", service=service, task=task.name)
        TASK_FAULTS.labels(service, task.name).inc()
        await asyncio.sleep(min(_PAUSE * 2**failures, _LONGEST_PAUSE))
        failures = min(failures + 1, 10)


@asynccontextmanager
async def tasks_running(one: Opened) -> AsyncIterator[None]:
    """Run a service's tasks while the block runs."""
    service = one.app.service.name
    running = [asyncio.create_task(keep_running(task, service), name=f"{task.name} {service}") for task in one.tasks]
    try:
        yield
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


async def _patiently(work: Callable[[], Awaitable[_T]]) -> _T:
    """Do what needs the database, which may still be starting."""
    async for attempt in AsyncRetrying(
        retry=retry_if_exception_type(Unavailable),
        stop=stop_after_delay(_DATABASE_SECONDS),
        wait=wait_exponential(multiplier=0.1, max=3),
        reraise=True,
    ):
        with attempt:
            return await work()
    raise AssertionError("the last attempt returns or raises")


async def _entered(stack: AsyncExitStack, app: App) -> Opened:
    return await stack.enter_async_context(opened(app))


async def bring_up_to_date(app: App) -> None:
    """Migrate a service's databases, and make its index rows anew where an older program made them."""
    await _patiently(lambda: migrate(app.settings.dsn))
    for dsn, schema in app.databases.items():
        await _patiently(partial(migrate, dsn, schema))
    made = await _patiently(lambda: reindex(app.settings.dsn))
    if made:
        _log.info("reindexed", service=app.settings.service, resources=made)


async def serve(apps: Sequence[App], stop: asyncio.Event) -> None:
    """Run services until `stop` is set, then stop them: of the listeners the last first.

    Raises:
        Unavailable: a database is not reached within a minute.
        CannotListen: a port is not to be had.

    """
    async with AsyncExitStack() as stack:
        all_opened = [await _patiently(partial(_entered, stack, app)) for app in apps]
        for one in all_opened:
            await stack.enter_async_context(tasks_running(one))
        for one in all_opened:
            settings = one.app.settings
            port = await stack.enter_async_context(listening(one.asgi, settings, tls=server_context(settings)))
            if one.health is not None:
                await stack.enter_async_context(listening(one.health, settings, port=settings.health_port))
            _log.info("started", service=settings.service, host=settings.host, port=port, roles=sorted(settings.roles))
        await stop.wait()
        _log.info("stopping", services=[app.service.name for app in apps])
