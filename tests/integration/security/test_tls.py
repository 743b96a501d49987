"""TLS of the services' own, and certificates asked for between them: an issuer, an owner, the gateway, on sockets."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from cli.stack.operator import OperatorKey, Wanted
from services.gateway.service import create as gateway
from services.identity.service import create as identity
from services.intake.service import create as intake
from shared.runtime.running import serve
from shared.runtime.settings import Settings, SettingsError
from shared.runtime.tls import server_context

PATIENT = {"resourceType": "Patient", "name": [{"family": "Sicher"}]}


class Authority:
    """A clinic's own certificate authority, in a folder."""

    def __init__(self, folder, name):
        self.folder, self.name, self.key = folder / name, name, ec.generate_private_key(ec.SECP256R1())
        self.folder.mkdir()
        self.certificate = self._signed(name, self.key.public_key(), authority=True)
        self.path = self.folder / "ca.pem"
        self.path.write_bytes(self.certificate.public_bytes(serialization.Encoding.PEM))

    def issue(self, name):
        """Return the files of a certificate for 127.0.0.1, and of its key."""
        key = ec.generate_private_key(ec.SECP256R1())
        certificate, private = self.folder / f"{name}.pem", self.folder / f"{name}.key"
        signed = self._signed(name, key.public_key(), authority=False)
        certificate.write_bytes(signed.public_bytes(serialization.Encoding.PEM))
        private.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        return certificate, private

    def _signed(self, name, key, *, authority):
        now = datetime.now(UTC)
        issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, self.name)])
        return (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
            .issuer_name(issuer)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(minutes=1))
            .not_valid_after(now + timedelta(hours=1))
            .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
            .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
            .sign(self.key, hashes.SHA256())
        )


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@asynccontextmanager
async def running(*apps):
    stop = asyncio.Event()
    serving = asyncio.create_task(serve(apps, stop))
    try:
        for app in apps:
            async with asyncio.timeout(30):
                while not await answers(app.settings.port):
                    assert not serving.done(), serving.exception()
                    await asyncio.sleep(0.05)
        yield
    finally:
        stop.set()
        await serving


async def answers(port):
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    return True


def believing(authority, certificate=None):
    context = ssl.create_default_context(cafile=authority.path)
    if certificate is not None:
        context.load_cert_chain(*certificate)
    return context


@pytest.fixture
def clinic(tmp_path, make_database, monkeypatch):
    """Settings of the three services, each with a certificate; the owner asks for one."""
    ours = Authority(tmp_path, "clinic")
    ports = {name: free_port() for name in ("identity", "intake", "gateway", "health")}
    key = OperatorKey(tmp_path)
    key.make()

    def settings(service, **more):
        certificate, private = ours.issue(service)
        return Settings(
            service=service,
            database_url=make_database(service),
            port=ports[service],
            roles={"api"},
            issuer=f"https://127.0.0.1:{ports['identity']}",
            audience="https://kap.example/fhir",
            tls_certificate=certificate,
            tls_key=private,
            tls_ca=ours.path,
            **more,
        )

    url = f"https://127.0.0.1:{ports['intake']}/fhir"
    apps = (
        identity(settings("identity", operator_jwks=key.jwks(), operator_acts_for_others=True)),
        intake(settings("intake", tls_client_ca=ours.path, health_port=ports["health"])),
        gateway(
            settings(
                "gateway",
                **{f"{name}_url": url for name in ("intake", "scheduling", "sessions", "outcomes", "delivery")},
            )
        ),
    )
    return ours, Authority(tmp_path, "stranger"), ports, key, apps


async def token_of(http, issuer, key):
    form = Wanted(role="clinic-admin").form(key.assertion(f"{issuer}/auth/token"))
    answer = await http.post(f"{issuer}/auth/token", data=form)
    assert answer.status_code == 200, answer.text
    return {"Authorization": f"Bearer {answer.json()['access_token']}"}


async def test_all_goes_by_tls_and_an_owner_answers_only_who_shows_a_certificate_of_the_clinics(clinic):
    ours, stranger, ports, key, apps = clinic
    issuer, gateway_url, owner = (f"https://127.0.0.1:{ports[name]}" for name in ("identity", "gateway", "intake"))
    async with running(*apps), httpx.AsyncClient(verify=believing(ours)) as http:
        by = await token_of(http, issuer, key)
        made = await http.post(f"{gateway_url}/fhir/Patient", json=PATIENT, headers=by)
        assert made.status_code == 201, made.text
        assert made.headers["Strict-Transport-Security"] == "max-age=31536000"
        with pytest.raises(httpx.TransportError):
            await http.get(f"{gateway_url.replace('https', 'http')}/fhir/metadata")
        with pytest.raises(httpx.TransportError):
            await http.get(f"{owner}/fhir/metadata")
        for authority, reaches in ((stranger, False), (ours, True)):
            async with httpx.AsyncClient(verify=believing(ours, authority.issue("caller"))) as caller:
                try:
                    status = (await caller.get(f"{owner}/fhir/metadata")).status_code
                except httpx.TransportError:
                    status = None
                assert (status == 200) is reaches
                if reaches:  # a certificate opens the port, and no record
                    assert (await caller.get(f"{owner}/fhir/Patient")).status_code == 401


async def test_who_asks_believes_no_stranger_for_a_service(clinic):
    _ours, stranger, ports, _key, apps = clinic
    async with running(apps[0]), httpx.AsyncClient(verify=believing(stranger)) as http:
        with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
            await http.get(f"https://127.0.0.1:{ports['identity']}/.well-known/openid-configuration")


async def test_health_and_metrics_are_at_a_port_of_their_own_where_one_is_set(clinic):
    ours, _stranger, ports, _key, apps = clinic
    mine = believing(ours, ours.issue("caller"))
    async with running(apps[1]), httpx.AsyncClient(verify=mine) as http:
        for path in ("/livez", "/readyz", "/metrics"):
            assert (await http.get(f"http://127.0.0.1:{ports['health']}{path}")).status_code == 200
            assert (await http.get(f"https://127.0.0.1:{ports['intake']}{path}")).status_code == 404
        assert (await http.get(f"http://127.0.0.1:{ports['health']}/fhir/metadata")).status_code == 404


def test_a_certificate_that_cannot_be_used_is_named(clinic, tmp_path):
    *_, apps = clinic
    settings = apps[1].settings
    broken = tmp_path / "broken.pem"
    broken.write_text(json.dumps("no certificate"))
    for wrong in ({"tls_certificate": broken}, {"tls_key": tmp_path / "missing"}):
        with pytest.raises(SettingsError, match=r"KAP_TLS_CERTIFICATE .* cannot be used"):
            server_context(settings.model_copy(update=wrong))
    with pytest.raises(SettingsError, match=r"KAP_TLS_CLIENT_CA .* cannot be used"):
        server_context(settings.model_copy(update={"tls_client_ca": broken}))
