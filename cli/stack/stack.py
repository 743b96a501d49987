"""The whole stack on this machine: PostgreSQL, Kafka, the services, and the hospital that stands in for a real one.

`up` brings about what should run and leaves alone what already does; so it starts a stack, finds one again, and heals
one of which a process was killed. Every process outlives the command that started it.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import psutil

from cli.stack import processes
from cli.stack.brokers import Broker, broker
from cli.stack.databases import NOTES, Databases, databases
from cli.stack.message_secret import MessageSecret
from cli.stack.notes_keys import NotesKeys
from cli.stack.operator import OperatorAuth, OperatorKey, Wanted
from cli.stack.ports import (
    GATEWAY,
    HOSPITAL,
    HOST,
    IDENTITY,
    OUTWARD,
    OWNERS,
    PARTNER,
    SERVICES,
    Ports,
    is_free,
    require_free,
)
from cli.stack.problem import StackProblem
from cli.stack.processes import Plan
from cli.stack.state import APACHE, DEFAULTS, MEMORY, Options, State, StateFile
from shared.security.scopes import OPERATE
from shared.store.access import DEFAULT_TENANT

ROOT = Path(__file__).resolve().parents[2]
DEFAULT_DATA = ROOT / ".kap"

READY_SECONDS = 120.0
STOP_SECONDS = 25.0  # a service lets requests in flight finish for up to 20 s
DID_NOT_RUN = "it did not run"
TOGETHER = "services"  # the one process of --single

Report = Callable[[str], None]
"""Told, in sentences, what is being done."""


def run_service(names: Sequence[str]) -> list[str]:
    """Return the command that runs these services in one process."""
    return [sys.executable, "-P", "-m", "services.run", ",".join(names)]


@dataclass(frozen=True, slots=True)
class Row:
    """What is known of one thing that runs.

    Attributes:
        name: of the service, or ``postgres``, ``kafka``.
        kind: ``service``, ``database`` or ``broker``.
        port: TCP port; None where it is not ours to know.
        pid: process id; None where it does not run, or others run it.
        health: ``ready``, ``not ready``, ``down``, or ``run by others``.
        problem: what is in the way of one that is not ready, in a sentence.
        url: where to look; None for what is not HTTP.
        lag: events committed elsewhere and not yet applied here plus own ones not yet published; None: unknown.
        memory: resident bytes; services of one process show the same.
        uptime: seconds.

    """

    name: str
    kind: str
    port: int | None
    pid: int | None
    health: str
    url: str | None = None
    lag: int | None = None
    memory: int | None = None
    uptime: float | None = None
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class Brought:
    """What `up` did: the state now, and the processes it started anew by name, with why."""

    state: State
    started: Mapping[str, str]
    healed: bool


class Stack:
    """The stack of one data folder.

    Args:
        data: the folder; made when something is started.
        report: told what is being done.
        command: makes the command line that runs some services in one process.
        services: which run.

    """

    def __init__(
        self,
        data: Path = DEFAULT_DATA,
        *,
        report: Report = lambda _: None,
        command: Callable[[Sequence[str]], list[str]] = run_service,
        services: Sequence[str] = SERVICES,
    ) -> None:
        self.data = data.absolute()
        self.logs = self.data / "logs"
        self._file = StateFile(self.data)
        self._report = report
        self._command = command
        self._services = tuple(services)
        self._things: dict[Options, tuple[Databases, Broker]] = {}

    # What runs

    def state(self) -> State:
        """Return what the state file says."""
        return self._file.read()

    def ports(self) -> Ports:
        """Return the ports of the stack as it last ran."""
        return _ports(self.state().options)

    def address(self, service: str) -> str:
        """Return the address of a service's database."""
        name = f"kap_{service}"
        return self._infra(self.state().options)[0].provide([name])[name]

    def is_up(self) -> bool:
        """Return whether every process lives (which does not mean that it is ready)."""
        state = self.state()
        served = {name for process in state.processes.values() if processes.alive(process) for name in process.serves}
        return served >= set(self._served(state.options)) and all(
            row.health != "down" for row in self._infrastructure(state)
        )

    def any_lives(self) -> bool:
        """Return whether anything of the stack runs."""
        state = self.state()
        return any(map(processes.alive, state.processes.values())) or any(
            row.pid is not None for row in self._infrastructure(state)
        )

    def status(self) -> list[Row]:
        """Ask everything how it is."""
        state = self.state()
        # whether something is ready needs no token: it is told while the issuer is down
        with _client() as client, _client(self.auth()) as operator:
            services = [self._service_row(client, operator, state, name) for name in self._ordered(state.options)]
        return [*self._infrastructure(state), *services]

    def _ordered(self, options: Options) -> list[str]:
        ports = Ports()
        return sorted(self._served(options), key=ports.of)

    def _served(self, options: Options) -> tuple[str, ...]:
        return (IDENTITY, *self._services) if options.auth else self._services

    def auth(self, wanted: Wanted | None = None) -> OperatorAuth | None:
        """Return what sends a token with every request, of who runs the stack; None where it needs none.

        Without `wanted` it is one that may do everything.
        """
        options = self.state().options
        if not options.auth:
            return None
        whole = Wanted(scope=f"user/*.cruds user/*.$* {OPERATE}")
        return OperatorAuth(_ports(options).url(IDENTITY), OperatorKey(self.data), wanted or whole)

    def _service_row(self, client: httpx.Client, operator: httpx.Client, state: State, name: str) -> Row:
        ports = _ports(state.options)
        process = next((one for one in state.processes.values() if name in one.serves), None)
        base = Row(name=name, kind="service", port=ports.of(name), pid=None, health="down", url=ports.fhir(name))
        if process is None or not processes.alive(process):
            return base
        problem = processes.ready(client, ports.url(name))
        return Row(
            name=name,
            kind="service",
            port=ports.of(name),
            pid=process.pid,
            health="ready" if problem is None else "not ready",
            problem=problem,
            url=ports.fhir(name),
            lag=None if problem else lag(operator, ports.url(name)),
            memory=processes.memory(process.pid),
            uptime=time.time() - process.created,
        )

    def _infrastructure(self, state: State) -> list[Row]:
        ports = _ports(state.options)
        rows = []
        database, kafka = self._infra(state.options)
        for name, kind, thing, given in (
            ("postgres", "database", database, state.options.postgres),
            ("kafka", "broker", kafka, state.options.kafka),
        ):
            address, own = given or "", thing.own
            pid = thing.pid()
            port = ports.of(name) if own else urlsplit(address if "//" in address else f"//{address}").port
            if given == MEMORY:
                port = _port(state.kafka_bootstrap)
            health = ("ready" if pid is not None else "down") if own else "run by others"
            rows.append(
                Row(
                    name=name,
                    kind=kind,
                    port=port,
                    pid=pid,
                    health=health,
                    memory=None if pid is None else processes.memory(pid),
                    uptime=None if pid is None else _uptime(pid),
                )
            )
        return rows

    # Starting

    def up(self, wanted: Options, *, foreground: bool = False) -> Brought:
        """Bring about what should run, and wait until everything is ready.

        Args:
            wanted: how it is to run; what it does not say is as it was, else the default.
            foreground: this process will `watch` the stack, where it is not up yet.

        Raises:
            StackProblem: something is in the way; what this call started was stopped again.

        """
        with self._file.locked(self._report):
            state = self._file.read()
            before = state.options
            alive = {name: one for name, one in state.processes.items() if processes.alive(one)}
            healed = bool(alive) or any(row.pid is not None for row in self._infrastructure(state))
            options = wanted.over(before)
            if healed and options != before:
                runs, asked = _unlike(before, options)
                raise StackProblem(
                    f"The stack in {self.data} is up: {runs}; asked for: {asked}. "
                    "Stop it first (./kap down), or give the other one a folder of its own (--data)."
                )
            if not (alive and state.foreground is not None and psutil.pid_exists(state.foreground)):
                state.foreground = os.getpid() if foreground and not alive else None
            state.options, state.processes = options, alive
            database, kafka = self._infra(options)
            idle = [thing for thing in (database, kafka) if thing.pid() is None]
            started: dict[str, str] = {}
            try:
                self._require_ports(state, database, kafka)
                self._bring(state, database, kafka, started)
            except BaseException:
                # Also when interrupted: nothing stays behind of a start that did not succeed.
                self._undo(state, started, idle, before)
                raise
            return Brought(state=state, started=started, healed=healed)

    def _require_ports(self, state: State, database: Databases, kafka: Broker) -> None:
        """See before anything starts that the ports of all that does not run yet are free.

        Raises:
            StackProblem: some are taken, by other programs than those of this stack.

        """
        running = {name for process in state.processes.values() for name in process.serves}
        names = [name for name in self._served(state.options) if name not in running]
        if database.own and database.pid() is None:
            names.append("postgres")
        if state.options.kafka == APACHE and kafka.pid() is None:
            names.extend(("kafka", "kafka-controller"))
        ports = _ports(state.options)
        if any(not is_free(ports.of(name)) for name in names) and not processes.any_marked(self.data):
            require_free(ports, *names)

    def _bring(self, state: State, database: Databases, kafka: Broker, started: dict[str, str]) -> None:
        options = state.options
        self._file.write(state)
        if database.own and database.pid() is None:
            started["postgres"] = DID_NOT_RUN
            self._report("Starting PostgreSQL.")
        database.start()
        if kafka.own and kafka.pid() is None:
            started["kafka"] = DID_NOT_RUN
            self._report(f"Starting {kafka.title}.")
        state.kafka_bootstrap = kafka.start()
        self._file.write(state)
        wanted = [f"kap_{name}" for name in self._served(options)]
        MessageSecret(self.data).make()
        if options.auth:
            OperatorKey(self.data).make()
            NotesKeys(self.data).make()
            wanted.append(NOTES)
        addresses = database.provide(wanted)
        with _client() as client:
            for plan in self._plans(options, addresses, state.kafka_bootstrap):
                why = self._why_start(client, state, plan)
                if why is None:
                    continue
                started[plan.name] = why
                self._start(state, plan)
            self._await_ready(client, state)

    def _why_start(self, client: httpx.Client, state: State, plan: Plan) -> str | None:
        """Return why this plan needs a new process; None where one runs it."""
        running = state.processes.get(plan.name)
        if running is None:
            return DID_NOT_RUN
        if running.told != plan.told:
            return "it was told something else"
        if any(_stalled(client, f"http://{HOST}:{port}") for port in plan.serves.values()):
            return "it made no progress"
        return None

    def _start(self, state: State, plan: Plan) -> None:
        log = self.logs / f"{plan.name}.log"
        running = state.processes.pop(plan.name, None)
        if running is not None:
            processes.stop([running], timeout=STOP_SECONDS)
        process = processes.find(plan, log=log, stack=self.data)
        if process is None:
            require_free(_ports(state.options), *plan.serves)
            self._report(f"Starting {', '.join(plan.serves)}.")
            process = processes.start(plan, log=log, stack=self.data)
        state.processes[plan.name] = process
        self._file.write(state)

    def _await_ready(self, client: httpx.Client, state: State) -> None:
        waiting = {
            name: (process, f"http://{HOST}:{port}")
            for process in state.processes.values()
            for name, port in process.serves.items()
        }
        deadline = time.monotonic() + READY_SECONDS
        self._report("Waiting until everything is ready.")
        while waiting:
            for name, (process, url) in list(waiting.items()):
                processes.reap()
                if not processes.alive(process):
                    raise StackProblem(
                        f"{process.name} ended while it started. Its log, {process.log}, ends so:\n"
                        f"{processes.last_words(Path(process.log))}"
                    )
                problem = processes.ready(client, url)
                if problem is None:
                    del waiting[name]
                elif time.monotonic() > deadline:
                    raise StackProblem(
                        f"{name} (process {process.pid}) runs, but after {READY_SECONDS:.0f} s it is not ready: "
                        f"{problem}. Its log: {process.log}"
                    )
            time.sleep(0.05)

    def _undo(
        self, state: State, started: Mapping[str, str], idle: Sequence[Databases | Broker], before: Options
    ) -> None:
        processes.stop([state.processes[name] for name in started if name in state.processes], timeout=STOP_SECONDS)
        for name in started:
            state.processes.pop(name, None)
        if not state.processes:
            state.foreground, state.options = None, before
            for thing in reversed(idle):
                thing.stop()
        self._file.write(state)

    def _plans(self, options: Options, addresses: Mapping[str, str], bootstrap: str) -> list[Plan]:
        ports = _ports(options)
        served = self._served(options)
        groups = {TOGETHER: served} if options.single else {name: (name,) for name in served}
        operator = OperatorKey(self.data).jwks() if options.auth else None
        keys = NotesKeys(self.data).path if options.auth else None
        messages = None if "KAP_MESSAGE_URL" in os.environ else MessageSecret(self.data).read()
        return [
            Plan(
                name=group,
                command=self._command(names),
                environment=environment(
                    names,
                    ports,
                    addresses,
                    bootstrap,
                    operator,
                    keys,
                    anchors=self.anchors,
                    messages=messages,
                    subscribers=os.environ.get("KAP_SUBSCRIBER_HOSTS"),
                ),
                serves={name: ports.of(name) for name in names},
                gives_way=OUTWARD.issuperset(names),
            )
            for group, names in groups.items()
        ]

    @property
    def anchors(self) -> Path:
        """The folder in which the ends of the audits' chains are noted."""
        return self.data / "audit"

    # Watching and stopping

    def watch(self) -> str:
        """Stay until the stack is taken down from elsewhere; tell of processes that end. Returns why it ended.

        Raises:
            KeyboardInterrupt: the person at the terminal, or a signal, wants it to end.

        """
        told: set[int] = set()
        while True:
            processes.reap_all()
            state = self._file.read()
            if state.foreground != os.getpid():
                return "The stack was stopped by another ./kap."
            for process in state.processes.values():
                if process.pid not in told and not processes.alive(process):
                    told.add(process.pid)
                    self._report(
                        f"{process.name} (process {process.pid}) has ended; its log is {process.log}. "
                        "./kap up in another terminal starts it again."
                    )
            time.sleep(0.5)

    def down(self) -> bool:
        """Stop everything in good order; returns False where nothing ran."""
        with self._file.locked(self._report):
            state = self._file.read()
            ran = self.any_lives()
            if state.processes:
                self._report("Stopping the services.")
            for name in processes.stop(state.processes.values(), timeout=STOP_SECONDS):
                self._report(f"{name} did not stop within {STOP_SECONDS:.0f} s and was killed.")
            state.processes = {}
            database, kafka = self._infra(state.options)
            for thing, title in ((kafka, kafka.title), (database, "PostgreSQL")):
                if thing.pid() is not None:
                    self._report(f"Stopping {title}.")
                    thing.stop()
            if ran or state.foreground is not None:
                state.foreground, state.kafka_bootstrap = None, None
                self._file.write(state)
            return ran

    def _infra(self, options: Options) -> tuple[Databases, Broker]:
        if options not in self._things:
            ports = _ports(options)
            self._things[options] = (
                databases(options.postgres or "", self.data, ports.of("postgres")),
                broker(options.kafka or "", self.data, ports, report=self._report),
            )
        return self._things[options]


def environment(
    names: Sequence[str],
    ports: Ports,
    addresses: Mapping[str, str],
    bootstrap: str,
    operator: str | None = None,
    keys: Path | None = None,
    *,
    anchors: Path | None = None,
    messages: str | None = None,
    subscribers: str | None = None,
) -> dict[str, str]:
    """Return what a process of these services is told, beside what the person's own KAP_* variables say.

    `addresses` holds the database's address by database name; where requests need tokens `operator` holds the public
    keys of who runs the stack, `keys` is the file of the keys of process notes, and in the folder `anchors` the ends of
    the audits' chains are noted. With the secret `messages`, text messages go to the stand-in at the hospital's.
    `subscribers`: hosts on this machine that subscribers may be at, beside the partner's of the demo.
    """
    told = {
        "KAP_HOST": HOST,
        "KAP_KAFKA_BOOTSTRAP": bootstrap,
        "KAP_ROLES": "migrate,api,worker",
        "KAP_HOSPITAL_URL": ports.fhir(HOSPITAL),
        "KAP_SUBSCRIBER_HOSTS": ",".join(
            [*filter(None, (subscribers,)), f"{DEFAULT_TENANT}@{HOST}:{ports.of(PARTNER)}"]
        ),
        "PYTHONPATH": str(ROOT),
        **({} if anchors is None else {"KAP_AUDIT_ANCHORS": str(anchors)}),
    }
    if messages is not None:
        told |= {"KAP_MESSAGE_URL": f"{ports.url(HOSPITAL)}/messages", "KAP_MESSAGE_SECRET": messages}
    if operator is None:
        told |= {"KAP_NO_AUTH": "true", "KAP_ISSUER": ""}
    else:
        told |= {
            "KAP_NO_AUTH": "",
            "KAP_ISSUER": ports.url(IDENTITY),
            "KAP_AUDIENCE": ports.fhir(GATEWAY),
            "KAP_IDENTITY_OPERATOR_JWKS": operator,
            "KAP_IDENTITY_OPERATOR_ACTS_FOR_OTHERS": "true",  # ./kap token is of anybody: it is one's own machine
            "KAP_IDENTITY_ROLES": "migrate,api",
            "KAP_HOSPITAL_NO_AUTH": "true",  # it stands for another organisation, with another issuer
        }
    for owner in (*OWNERS, "delivery"):
        told[f"KAP_{owner.upper()}_URL"] = ports.fhir(owner)
    if keys is not None and "sessions" in names:
        told |= {"KAP_SESSIONS_NOTES_DATABASE_URL": addresses[NOTES], "KAP_SESSIONS_NOTES_KEYS": str(keys)}
    for name in names:
        told[f"KAP_{name.upper()}_DATABASE_URL"] = addresses[f"kap_{name}"]
        told[f"KAP_{name.upper()}_PORT"] = str(ports.of(name))
        told[f"KAP_{name.upper()}_PUBLIC_BASE"] = ports.fhir(name)
    return told


def lag(client: httpx.Client, url: str) -> int | None:
    """Return how many events a service has yet to publish or to apply, by its ``/ops/flow``; None: it does not say."""
    with suppress(httpx.TransportError, StackProblem, ValueError, KeyError, TypeError):
        answer = client.get(f"{url}/ops/flow")
        if answer.status_code == httpx.codes.OK:
            told = answer.json()["lag"]
            return None if told is None else int(told)
    return None


def _stalled(client: httpx.Client, url: str) -> bool:
    with suppress(httpx.TransportError):
        return client.get(f"{url}/livez").status_code == httpx.codes.SERVICE_UNAVAILABLE
    return False


def _client(auth: httpx.Auth | None = None) -> httpx.Client:
    # trust_env off: a proxy of the person's has no business with 127.0.0.1
    return httpx.Client(timeout=5.0, trust_env=False, auth=auth)


def _ports(options: Options) -> Ports:
    return Ports(options.port_base or Ports().base)


def _port(address: str | None) -> int | None:
    return int(address.rpartition(":")[2]) if address else None


def _uptime(pid: int) -> float | None:
    with suppress(psutil.NoSuchProcess):
        return time.time() - psutil.Process(pid).create_time()
    return None


def _unlike(before: Options, wanted: Options) -> tuple[str, str]:
    """Return in words what differs between two ways to run: how it is in the first, and in the second."""
    first, second = _described(before), _described(wanted)
    unlike = [name for name in first if first[name] != second[name]]
    if not unlike:  # passwords may stand in addresses: they are not shown
        return "one PostgreSQL given by address", "another"
    return ", ".join(first[name] for name in unlike), ", ".join(second[name] for name in unlike)


def _described(options: Options) -> dict[str, str]:
    complete = options.over(DEFAULTS)
    embedded = complete.postgres == DEFAULTS.postgres
    return {
        "port_base": f"port base {complete.port_base}",
        "kafka": f"Kafka {complete.kafka}",
        "postgres": "a PostgreSQL of its own" if embedded else "a PostgreSQL given by address",
        "single": "one process for all services" if complete.single else "one process per service",
        "auth": "with tokens" if complete.auth else "without tokens",
    }
