"""What a process is told by its environment (https://12factor.net/config), read once, passed down, read nowhere else.

Every name has the prefix `KAP_`. A process that runs one service reads ``KAP_DATABASE_URL``; one that runs several
(`--single`) gives each its own by the service's name: ``KAP_INTAKE_DATABASE_URL`` goes before ``KAP_DATABASE_URL``.

What must not stand in an environment, which `docker inspect` and ``/proc`` show, comes from files: each setting may lie
in the folder that ``KAP_SECRETS_DIR`` names, in a file of the setting's name, in small letters or capitals. The
environment goes before a file.
"""

from __future__ import annotations

import hashlib
import hmac
import os
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Annotated, Literal, TypeAlias

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, EnvSettingsSource, NoDecode, SettingsConfigDict

from shared.events.relay import WATERMARK_SECONDS
from shared.events.topics import RETENTION_MS

Role: TypeAlias = Literal["api", "worker", "migrate"]

MEBIBYTE = 1024 * 1024

CLAIMS = frozenset(("scope", "client_id", "patient", "fhirUser", "kap_tenant", "kap_role", "jti"))
"""What is read of a token beside its issuer, audience and times."""

_DAY_MS = 24 * 3600 * 1000


class SettingsError(Exception):
    """The environment does not say what the process needs; the message is for the person who starts it."""


class Settings(BaseSettings):
    """The settings of one service in one process.

    Attributes:
        service: its name, ``intake``.
        database_url: its PostgreSQL database.
        kafka_bootstrap: ``host:port``.
        host, port: where it listens. Port 0: any free one.
        health_port: where it answers `/livez`, `/readyz` and `/metrics`, then there only and without TLS: for who keeps
            it running, not for clients. None: at `port`.
        tls_certificate, tls_key: files (PEM) of what it shows at `port`, and where another service asks for one. None:
            no TLS of its own; a proxy's.
        tls_client_ca: file of the authority whose certificates clients at `port` have to show. None: they need none.
        tls_ca: file of an authority that is believed about other services and the issuer, beside the public ones.
        public_base: the base URL clients use; every link begins with it. None: made of host and port.
        roles: what this process does: ``api`` answers FHIR requests, ``worker`` relays and consumes events, ``migrate``
            brings the database's schema up to date before anything else (and alone: then ends).
        topic_partitions: partitions of each topic.
        watermark_seconds: how often a worker says up to when all that was committed here is published.
        client_ids: whether a client may choose the id of a new resource, by PUT. Of one installation all services and
            the gateway have the same.
        max_body_bytes: a larger request body is answered 413.
        max_bundle_entries: a batch or transaction with more is answered 413.
        database_connections: connections of the pool, at most.
        outbox_days, inbox_days: how long published events and the memory of applied ones are kept; the latter longer
            than Kafka keeps events (see `shared.runtime.housekeeping`).
        link_secret: key of the paging links; the same for every process of a service. None: derived from the
            database's URL.
        issuer: URL of whose tokens are believed, the built-in one (services/identity) or any OpenID provider. None:
            none, and then `no_auth` has to be true.
        issuer_at: where the issuer is reached from this process, where that is not its URL: inside of a cluster,
            ``http://identity:8000``.
        audience: what a token has to be for: the FHIR base URL that clients know, or several, separated by commas.
            None: the base of this service's links.
        operator_jwks: public keys (a JWKS as JSON) of the client of who runs the installation; for the issuer only.
        operator_acts_for_others: whether that client is given a token of any role, user and patient (`./kap token`):
            for a stack on one's own machine; refused where the issuer's URL is another.
        claims: what another issuer calls the claims that are read here: ``kap_role=roles,patient=smart.patient``, with
            commas; a name with dots that is no claim leads into claims that are objects.
        clinic: whose a token is that names no clinic (``kap_tenant``): where there is only one, and the issuer knows
            of none. None: such a token is refused.
        browser_origins: where apps in browsers may come from (CORS), separated by commas; ``*``: from anywhere, which a
            token is asked for all the same. None: from anywhere where tokens are asked for, else from nowhere.
        trusted_proxies: addresses and networks, separated by commas, of the proxies in front: what they say of who
            connects (X-Forwarded-For) is believed, and of nobody else. None: nobody stands in front.
        requests_per_second: how often one caller may ask this process, in the long run. None: as often as he likes.
        search_cost: how much work one search may be, in the units of PostgreSQL's planner (a page read in a row is 1);
            more is refused with what to narrow (`shared.store.costs`). None: only the time of a statement is bounded.
        exports_per_client, exports_waiting: how many exports ($export) a client may have at one time, those that are
            kept for it included, and how many of a clinic's clients may wait; one more is 429.
        export_hours: for so long a finished export can be downloaded.
        no_auth: everybody may do everything; for trying things out.
        notes_database_url, notes_keys: where sessions keeps process notes, and the file of keys (a line each: 32 bytes
            in base64, the current one first). None: this installation keeps none.
        stop_seconds: how long requests in flight may take to finish when the process is told to stop.
        intake_url ... delivery_url: FHIR base URLs of the owners, for the gateway.
        hospital_url: FHIR base URL of the destination, for delivery.
        outbound_hosts: hosts (``host``, ``host:port``, separated by commas) at which a destination or a client's keys
            may be although they are inside of the network or speak no TLS (`shared.http.outbound`). None: the
            hospital's alone.
        subscriber_hosts: the same for subscribers, of one clinic each: ``clinic@host``, ``clinic@host:port``. None: no
            notification goes inside.
        subscriptions_per_client: how many Subscriptions a client may have that are not off; one more is refused.
        hospital_profile: which EHR the stand-in hospital resembles.
        smtp_url, smtp_sender: the mail server (`shared.notify.smtp`) and the address that mail comes from.
        message_url, message_secret: the gateway for text messages and pagers (`shared.notify.webhook`), and what is
            shared with it to sign calls.
        audit_anchors: the folder in which the end of the audit's chain is noted, on another disk than the database's.
            None: it is told to the log only.
        policy: the clinic's own policy file, laid over the shipped one.
        log_level: least severe level that is logged.

    """

    model_config = SettingsConfigDict(env_prefix="KAP_", extra="ignore", frozen=True, env_ignore_empty=True)

    service: str
    database_url: SecretStr
    kafka_bootstrap: str = "127.0.0.1:9092"
    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=0, le=65535)
    health_port: int | None = Field(default=None, ge=0, le=65535)
    tls_certificate: Path | None = None
    tls_key: Path | None = None
    tls_client_ca: Path | None = None
    tls_ca: Path | None = None
    public_base: str | None = None
    roles: Annotated[frozenset[Role], NoDecode] = frozenset(("api", "worker", "migrate"))
    topic_partitions: int = Field(default=16, ge=1, le=16)
    watermark_seconds: float = Field(default=WATERMARK_SECONDS, gt=0)
    client_ids: bool = False
    max_body_bytes: int = Field(default=50 * MEBIBYTE, ge=1024)
    max_bundle_entries: int = Field(default=2000, ge=1)
    database_connections: int = Field(default=5, ge=2)
    outbox_days: int = Field(default=7, ge=1)
    inbox_days: int = Field(default=30, gt=RETENTION_MS // _DAY_MS)
    link_secret: SecretStr | None = None
    issuer: str | None = None
    issuer_at: str | None = None
    audience: str | None = None
    operator_jwks: str | None = None
    operator_acts_for_others: bool = False
    claims: str | None = None
    clinic: str | None = None
    browser_origins: str | None = None
    trusted_proxies: str | None = None
    requests_per_second: float | None = Field(default=None, gt=0)
    search_cost: float | None = Field(default=None, gt=0)
    exports_per_client: int = Field(default=5, ge=1)
    exports_waiting: int = Field(default=50, ge=1)
    export_hours: int = Field(default=24, ge=1)
    no_auth: bool = False
    notes_database_url: SecretStr | None = None
    notes_keys: Path | None = None
    stop_seconds: int = Field(default=20, ge=1)
    intake_url: str | None = None
    scheduling_url: str | None = None
    sessions_url: str | None = None
    outcomes_url: str | None = None
    delivery_url: str | None = None
    hospital_url: str | None = None
    outbound_hosts: str | None = None
    subscriber_hosts: str | None = None
    subscriptions_per_client: int = Field(default=20, ge=1)
    hospital_profile: str = "open"
    smtp_url: SecretStr | None = None
    smtp_sender: str | None = None
    message_url: str | None = None
    message_secret: SecretStr | None = None
    audit_anchors: Path | None = None
    policy: Path | None = None
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"

    @field_validator("roles", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return frozenset(part.strip() for part in value.split(",")) if isinstance(value, str) else value

    @property
    def base_url(self) -> str:
        """The FHIR base of every link, without a slash at its end."""
        scheme = "http" if self.tls_certificate is None else "https"
        return (self.public_base or f"{scheme}://{self.host}:{self.port}/fhir").rstrip("/")

    @property
    def dsn(self) -> str:
        """The database's URL in the clear, for the driver only."""
        return self.database_url.get_secret_value()

    @property
    def audiences(self) -> tuple[str, ...]:
        """What a token has to be for, one of these."""
        return tuple(one.strip().rstrip("/") for one in (self.audience or self.base_url).split(",") if one.strip())

    @property
    def proxies(self) -> list[str]:
        """Addresses and networks of the proxies in front.

        Raises:
            SettingsError: one is neither; "everybody" is no proxy.

        """
        said = [one.strip() for one in (self.trusted_proxies or "").split(",") if one.strip()]
        try:
            return [str(ip_network(one)) if "/" in one else str(ip_address(one)) for one in said]
        except ValueError as error:
            raise SettingsError(
                f"KAP_TRUSTED_PROXIES is addresses and networks, with commas, such as 10.1.2.3,10.9.0.0/16. {error}."
            ) from None

    @property
    def origins(self) -> tuple[str, ...]:
        """Where apps in browsers may come from."""
        usual = "*" if self.issuer is not None and not self.no_auth else ""
        said = usual if self.browser_origins is None else self.browser_origins
        return tuple(one.strip().rstrip("/") for one in said.split(",") if one.strip())

    @property
    def claim_names(self) -> dict[str, str]:
        """By the name of a claim here, what the issuer calls it.

        Raises:
            SettingsError: the setting cannot be understood.

        """
        pairs = [one.partition("=") for one in (self.claims or "").split(",") if one.strip()]
        names = {name.strip(): other.strip() for name, _, other in pairs}
        if not set(names) <= CLAIMS or not all(names.values()):
            raise SettingsError(
                f"KAP_CLAIMS is NAME=CLAIM, separated by commas; NAME one of {', '.join(sorted(CLAIMS))}."
            )
        return names

    @property
    def link_key(self) -> bytes:
        """32 bytes: the key of the paging links of this service."""
        return self._derived("paging")

    @property
    def header_key(self) -> bytes:
        """32 bytes: under which the headers of subscriptions are kept."""
        return self._derived("subscription headers")

    @property
    def sealing_key(self) -> bytes:
        """32 bytes: under which the issuer keeps its private keys."""
        return self._derived("sealing")

    def _derived(self, purpose: str) -> bytes:
        secret = self.link_secret or self.database_url
        said = f"{purpose} {self.service}".encode()
        return hmac.new(secret.get_secret_value().encode(), said, hashlib.sha256).digest()

    @classmethod
    def load(cls, service: str) -> Settings:
        """Return the settings of `service` from the environment.

        Raises:
            SettingsError: something is missing or cannot be; names the variable.

        """
        own = EnvSettingsSource(cls, env_prefix=f"KAP_{service.upper()}_", env_ignore_empty=True)()
        try:
            folder = _secrets_folder()
            settings = cls(_secrets_dir=folder, **{**own, "service": service})  # type: ignore[call-arg]
        except ValidationError as error:
            problems = "; ".join(
                f"KAP_{'_'.join(str(part) for part in one['loc']).upper()}: {one['msg']}" for one in error.errors()
            )
            raise SettingsError(f"The settings of {service} are not complete. {problems}.") from None
        if not settings.no_auth and settings.issuer is None:
            raise SettingsError(
                f"{service} does not start: it is not told whose tokens to believe. Set KAP_ISSUER to the URL of the "
                "issuer. Set KAP_NO_AUTH=true if it is to be open to everybody who reaches its port."
            )
        if settings.no_auth and settings.issuer is not None and "no_auth" not in own:
            raise SettingsError(
                f"{service} does not start: KAP_ISSUER asks for tokens, KAP_NO_AUTH=true for none. Unset one of them."
            )
        settings.proxies  # noqa: B018 - refused where they cannot be understood
        if (settings.tls_certificate is None) != (settings.tls_key is None):
            raise SettingsError(
                f"{service} does not start: KAP_TLS_CERTIFICATE and KAP_TLS_KEY belong together. Set both."
            )
        if settings.tls_client_ca is not None and settings.tls_certificate is None:
            raise SettingsError(
                f"{service} does not start: KAP_TLS_CLIENT_CA asks clients for certificates, and without "
                "KAP_TLS_CERTIFICATE there is no TLS to show them in. Set it, with KAP_TLS_KEY."
            )
        return settings


def _secrets_folder() -> Path | None:
    """Return the folder whose files say what the environment does not; None: there is none.

    Raises:
        SettingsError: it is named and is not a folder.

    """
    named = os.environ.get("KAP_SECRETS_DIR")
    if not named:
        return None
    if not Path(named).is_dir():
        raise SettingsError(f"KAP_SECRETS_DIR: {named} is not a folder.")
    return Path(named)
