"""Addresses that somebody else named lead outside, or nowhere: nothing is sent to what only this server can reach."""

from __future__ import annotations

from ipaddress import ip_address

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.http.outbound import AnswerRefused, NotOutside, Outbound, Outside, is_public

INSIDE = (
    "10.0.0.5", "172.16.3.4", "192.168.1.1", "127.0.0.1", "0.0.0.0", "169.254.169.254", "100.64.0.1", "224.0.0.1",
    "255.255.255.255", "::1", "::", "fe80::1", "fc00::1", "fd00:ec2::254", "ff02::1", "::ffff:10.0.0.5",
    "::ffff:169.254.169.254", "64:ff9b::a00:5", "64:ff9b:1::a00:5", "fec0::1",
    "2002:a00:5::1", "2001:0:4136:e378:8000:63bf:3fff:fdd2", "192.0.2.1",
)  # fmt: skip
OUTSIDE = ("93.184.215.14", "2606:2800:21f:cb07:6820:80da:af6b:8b2c", "::ffff:93.184.215.14", "64:ff9b::5db8:d70e")


class Server(httpx.AsyncBaseTransport):
    """Stands where a connection would be made; tells where to."""

    def __init__(self, asked, answer):
        self.asked = asked
        self.answer = answer

    async def handle_async_request(self, request):
        self.asked.append(request)
        answer = self.answer(request)
        if isinstance(answer, Exception):
            raise answer
        return answer


@pytest.fixture
def reach(monkeypatch):
    """Ask a URL whose host has these addresses; return the answer and what was connected to."""

    async def ask(url, addresses, *, listed="", answer=lambda _: httpx.Response(200), **more):
        asked = []
        monkeypatch.setattr(httpx, "AsyncHTTPTransport", lambda **_: Server(asked, answer))
        names = iter(addresses) if addresses and isinstance(addresses[0], list) else None

        async def resolve(_host, _port):
            return next(names) if names is not None else addresses

        async with httpx.AsyncClient(transport=Outbound(Outside.of(listed), resolve), **more) as client:
            try:
                return await client.get(url), asked
            except httpx.HTTPError as error:
                return error, asked

    return ask


@pytest.mark.parametrize("address", INSIDE)
async def test_a_name_that_leads_inside_of_the_network_is_not_connected_to(reach, address):
    assert not is_public(ip_address(address))
    said, asked = await reach("https://ehr.example/fhir", [address])
    assert isinstance(said, NotOutside)
    assert asked == []


@pytest.mark.parametrize("address", OUTSIDE)
async def test_a_name_is_asked_at_the_address_that_was_looked_at_and_shows_a_certificate_of_the_name(reach, address):
    said, [asked] = await reach("https://ehr.example/fhir?x=1", [address])
    assert said.status_code == 200
    assert ip_address(asked.url.host) == ip_address(address)
    assert asked.url.raw_path == b"/fhir?x=1"
    assert asked.headers["host"] == "ehr.example"
    assert asked.extensions["sni_hostname"] == "ehr.example"


async def test_one_address_inside_among_others_is_enough_to_ask_none(reach):
    said, asked = await reach("https://ehr.example/", ["93.184.215.14", "10.0.0.5"])
    assert isinstance(said, NotOutside)
    assert asked == []


async def test_a_name_that_means_another_address_a_moment_later_is_looked_at_again(reach):
    said, asked = await reach("https://ehr.example/", [["93.184.215.14"], ["127.0.0.1"]])
    assert said.status_code == 200
    assert [one.url.host for one in asked] == ["93.184.215.14"]  # what was looked at, not what the name means then


@pytest.mark.parametrize("host", [*(f"[{one}]" if ":" in one else one for one in INSIDE), "localhost", "a.localhost",
                                  "2130706433", "0x7f000001", "127.1", "0x7f.1", "localhost."])  # fmt: skip
def test_an_address_inside_is_refused_when_it_is_named_in_whatever_way_it_is_written(host):
    assert Outside().problem(f"https://{host}/fhir") is not None
    assert Outside().problem(f"https://{host}:8443/fhir") is not None


@pytest.mark.parametrize(
    "url",
    [
        "http://ehr.example/fhir", "ftp://ehr.example/", "file:///etc/passwd", "gopher://ehr.example/", "https:///fhir",
        "//ehr.example/fhir", "https://me:secret@ehr.example/", "https://ehr.example@10.0.0.5/", "https://ehr.example/#x",
        "https://ehr.example/ x", "https://ehr.example/\r\nX: y", "https://ehr.example\\@10.0.0.5/", "https://[::1/",
        "https://ehr.example:99999/", "", "mllp://ehr.example:2575",
    ],
)  # fmt: skip
def test_what_is_no_plain_https_address_is_refused_and_says_why(url):
    said = Outside().problem(url)
    assert said is not None
    assert said.endswith(".")
    assert "secret" not in said


def test_a_listed_host_may_be_inside_and_without_tls_and_no_other_one(request):
    outside = Outside.of("127.0.0.1, EHR.internal:8080", "http://hospital:8000/fhir")
    assert outside.problem("http://127.0.0.1:9007/fhir") is None
    assert outside.problem("http://ehr.internal:8080/fhir") is None
    assert outside.problem("http://hospital:8000/other") is None
    assert outside.problem("http://ehr.internal:5432/") is not None
    assert outside.problem("http://127.0.0.2:9007/fhir") is not None
    assert outside.problem("http://me:x@127.0.0.1/fhir") is not None


async def test_no_redirect_is_followed(reach):
    moved = httpx.Response(307, headers={"Location": "http://169.254.169.254/latest/meta-data"})
    said, asked = await reach("https://ehr.example/", ["93.184.215.14"], answer=lambda _: moved)
    assert said.status_code == 307
    assert len(asked) == 1
    _, asked = await reach("https://e.example/", ["93.184.215.14"], answer=lambda _: moved, follow_redirects=True)
    assert len(asked) == 1  # not even by a client that would


async def test_an_address_that_does_not_answer_leads_to_the_next_one_of_the_name(reach):
    def answer(request):
        return httpx.ConnectError("no") if request.url.host == "93.184.215.14" else httpx.Response(200)

    said, asked = await reach("https://ehr.example/", ["93.184.215.14", "93.184.215.15"], answer=answer)
    assert said.status_code == 200
    assert len(asked) == 2


async def test_an_answer_without_end_or_packed_is_not_read(monkeypatch):
    async def endless():
        while True:
            yield b"x" * 1000

    async def packed():
        yield b"\x1f\x8b"

    for headers, stream in (({}, endless), ({"Content-Encoding": "gzip"}, packed)):
        answer = httpx.Response(200, headers=headers, content=stream())
        monkeypatch.setattr(httpx, "AsyncHTTPTransport", lambda answer=answer, **_: Server([], lambda _: answer))
        transport = Outbound(Outside(), lambda *_: _found("93.184.215.14"), most_bytes=10_000)
        async with httpx.AsyncClient(transport=transport) as client:
            with pytest.raises(AnswerRefused):
                await client.get("https://ehr.example/")


async def _found(*addresses):
    return addresses


@given(st.ip_addresses(v=4))
def test_an_address_is_what_it_is_however_it_is_wrapped(address):
    wrapped = [f"::ffff:{address}", str(ip_address(int(ip_address("64:ff9b::")) + int(address)))]
    assert {is_public(ip_address(one)) for one in wrapped} == {is_public(address)}
