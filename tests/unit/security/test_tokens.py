"""Forged, stale and misdirected tokens: each kind is refused, and says why without saying what exists."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json

import httpx
import pytest
from joserfc import jwt
from joserfc.jwk import ECKey, KeySet, RSAKey

from shared.fhir.outcome import Unavailable
from shared.security.bearer import Bearer, Issuer
from shared.security.caller import BELIEVED
from shared.security.keys import KeysRefused, key_set
from shared.security.tokens import TokenRefused, verified

ISSUER, AUDIENCE, NOW = "https://issuer.example", "https://kap.example/fhir", 1_800_000_000
RSA = RSAKey.generate_key(2048, parameters={"kid": "rsa", "use": "sig", "alg": "RS384"})
RSA_FOR_ANYTHING = RSAKey.import_key({k: v for k, v in RSA.as_dict(private=True).items() if k != "alg"})
EC = ECKey.generate_key("P-384", parameters={"kid": "ec", "use": "sig", "alg": "ES384"})
OTHER = ECKey.generate_key("P-384", parameters={"kid": "ec", "use": "sig", "alg": "ES384"})
PUBLISHED = {"keys": [RSA.as_dict(private=False), EC.as_dict(private=False)]}
WEAK = {"kty": "RSA", "kid": "weak", "e": "AQAB", "n": base64.urlsafe_b64encode(b"\xc5" * 128).rstrip(b"=").decode()}
GOOD = {
    "iss": ISSUER,
    "aud": AUDIENCE,
    "iat": NOW,
    "nbf": NOW,
    "exp": NOW + 300,
    "jti": "1",
    "client_id": "app",
    "scope": "system/Patient.rs",
    "kap_tenant": "default",
}


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def signed(claims=None, *, key=EC, alg="ES384", **header) -> str:
    head = {"alg": alg, "kid": key.kid, **header}
    return jwt.encode(head, {**GOOD, **(claims or {})}, key, algorithms=[alg])


def by_hand(header, claims, signature=b"x") -> str:
    return ".".join((b64(json.dumps(header).encode()), b64(json.dumps(claims).encode()), b64(signature)))


def without(*names):
    return jwt.encode({"alg": "ES384", "kid": "ec"}, {k: v for k, v in GOOD.items() if k not in names}, EC, ["ES384"])


def hmac_by_public_key() -> str:
    """RS/HS confusion: signed by the public key, which everybody has, as if it were a shared secret."""
    head = f"{b64(json.dumps({'alg': 'HS256', 'kid': 'rsa'}).encode())}.{b64(json.dumps(GOOD).encode())}"
    public = RSA.as_pem(private=False)
    return f"{head}.{b64(hmac.new(public, head.encode(), hashlib.sha256).digest())}"


def tampered() -> str:
    head, _, signature = signed().split(".")
    return f"{head}.{b64(json.dumps({**GOOD, 'scope': 'system/*.cruds'}).encode())}.{signature}"


def look(token: str):
    return verified(token, key_set(PUBLISHED), issuer=ISSUER, audience={AUDIENCE}, now=NOW)


FORGED = {
    "alg none": (by_hand({"alg": "none", "kid": "ec"}, GOOD, b""), "signed"),
    "alg none with a signature": (by_hand({"alg": "none", "kid": "ec"}, GOOD), "signed by one of"),
    "alg None in other letters": (by_hand({"alg": "nOnE", "kid": "ec"}, GOOD), "signed by one of"),
    "shared secret made of the public key": (hmac_by_public_key(), "signed by one of"),
    "alg of another key": (by_hand({"alg": "ES384", "kid": "rsa"}, GOOD), "another way than its key"),
    "weaker alg of the same key": (signed(key=RSA_FOR_ANYTHING, alg="RS256"), "another way than its key"),
    "another's key of the same name": (signed(key=OTHER), "signature"),
    "claims changed after signing": (tampered(), "signature"),
    "signature cut off": (signed().rsplit(".", 1)[0] + ".", "signed JSON Web Token"),
    "signature of nothing": (signed().rsplit(".", 1)[0] + ".AAAA", "signature"),
    "key that is not published": (by_hand({"alg": "ES384", "kid": "new"}, GOOD), "does not publish"),
    "no key named": (by_hand({"alg": "ES384"}, GOOD), "name its key"),
    "brings its own key": (
        by_hand({"alg": "ES384", "kid": "own", "jwk": OTHER.as_dict(private=False)}, GOOD),
        "publish",
    ),
    "says where its key is": (by_hand({"alg": "ES384", "kid": "own", "jku": "https://evil.example"}, GOOD), "publish"),
    "critical header": (by_hand({"alg": "ES384", "kid": "ec", "crit": ["b64"], "b64": False}, GOOD), "critical"),
    "kid that is a path": (by_hand({"alg": "ES384", "kid": "../../etc/passwd"}, GOOD), "does not publish"),
    "kid that is a list": (by_hand({"alg": "ES384", "kid": ["ec"]}, GOOD), "name its key"),
    "expired": (signed({"exp": NOW - 6}), "expired"),
    "without an end": (without("exp"), "when it ends"),
    "end that is a text": (signed({"exp": str(NOW + 300)}), "not numbers"),
    "end that is true": (signed({"exp": True}), "not numbers"),
    "not good yet": (signed({"nbf": NOW + 60}), "not good yet"),
    "issued in the future": (signed({"iat": NOW + 60}), "not good yet"),
    "another issuer": (signed({"iss": "https://evil.example"}), "another issuer"),
    "issuer that begins alike": (signed({"iss": f"{ISSUER}.evil.example"}), "another issuer"),
    "no issuer": (without("iss"), "another issuer"),
    "another audience": (signed({"aud": "https://other.example/fhir"}), "another audience"),
    "audience that begins alike": (signed({"aud": f"{AUDIENCE}/evil"}), "another audience"),
    "no audience": (without("aud"), "another audience"),
    "audience that is an object": (signed({"aud": {AUDIENCE: 1}}), "another audience"),
    "not a token": ("abc", "not a signed"),
    "encrypted token": ("a.b.c.d.e", "not a signed"),
    "header that is no JSON": (f"{b64(b'{')}.e30.AAAA", "header cannot be read"),
    "header that is no object": (f"{b64(b'[]')}.e30.AAAA", "signed by one of"),
    "very deep header": (f"{b64(b'[' * 3000)}.e30.AAAA", "header cannot be read"),
    "very long": (signed({"x": "y" * 9000}), "8192"),
}


@pytest.mark.parametrize(("token", "why"), FORGED.values(), ids=FORGED.keys())
def test_a_forged_stale_or_misdirected_token_is_refused_and_told_why(token, why):
    with pytest.raises(TokenRefused, match=why) as refused:
        look(token)
    assert refused.value.headers["WWW-Authenticate"].startswith('Bearer realm="kap", error="invalid_token"')


@pytest.mark.parametrize("token", [signed(), signed(key=RSA, alg="RS384"), signed({"aud": ["x", AUDIENCE]})])
def test_a_good_token_is_believed(token):
    assert look(token)["scope"] == "system/Patient.rs"


@pytest.mark.parametrize(
    ("jwks", "why"),
    [
        ({}, "list 'keys'"),
        ({"keys": []}, "no RSA or EC key"),
        ({"keys": [EC.as_dict(private=True)]}, "private"),
        ({"keys": [{"kty": "oct", "k": "c2VjcmV0", "kid": "s"}]}, "shared key"),
        (
            {"keys": [WEAK]},
            "1024",
        ),
        ({"keys": [{"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA", "kid": "e"}]}, "cannot be read"),
        ("keys", "JSON object"),
    ],
)
def test_keys_that_cannot_be_trusted_are_not_registered(jwks, why):
    with pytest.raises(KeysRefused, match=why):
        key_set(jwks)


class Published:
    """An issuer at the end of a wire."""

    def __init__(self):
        self.keys = [EC]
        self.revoked = []
        self.asked = []
        self.down = False
        self.tells_revoked = True

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(request.url.path)
        if self.down:
            raise httpx.ConnectError("down")
        told = {
            "/.well-known/openid-configuration": {
                "issuer": ISSUER,
                "jwks_uri": f"{ISSUER}/jwks",
                **({"kap_revoked_tokens_endpoint": f"{ISSUER}/revoked"} if self.tells_revoked else {}),
            },
            "/jwks": KeySet(self.keys).as_dict(private=False),
            "/revoked": {"revoked": self.revoked},
        }
        return httpx.Response(200, json=told[request.url.path])


@pytest.fixture
def published():
    return Published()


@pytest.fixture
def bearer(published):
    client = httpx.AsyncClient(transport=httpx.MockTransport(published))
    return Bearer(Issuer(ISSUER, client), [AUDIENCE], origin=None, roles={}, clock=lambda: NOW)


def sent(token):
    return {"authorization": f"Bearer {token}"}


async def test_any_issuer_is_known_by_its_metadata_and_a_signature_is_checked_once(bearer, published):
    token = signed()
    first = await bearer(sent(token))
    assert (await bearer(sent(token))) is first
    assert published.asked.count("/jwks") == 1
    assert first.may("Patient", "s")


async def test_an_issuer_that_is_reached_elsewhere_is_still_known_by_its_url():
    asked = []

    def answer(request):
        asked.append(f"{request.url.scheme}://{request.url.netloc.decode()}")
        return Published()(request)

    client = httpx.AsyncClient(transport=httpx.MockTransport(answer))
    issuer = Issuer(ISSUER, client, at="http://identity:8000/")
    bearer = Bearer(issuer, [AUDIENCE], origin=None, roles={}, clock=lambda: NOW)
    assert (await bearer(sent(signed()))).known
    assert set(asked) == {"http://identity:8000"}
    assert (await issuer.metadata())["jwks_uri"].startswith(f"{ISSUER}/")
    with pytest.raises(TokenRefused):
        await bearer(sent(signed({"iss": "http://identity:8000"})))


async def test_an_issuer_whose_name_ends_with_a_slash_is_believed_under_it():
    client = httpx.AsyncClient(transport=httpx.MockTransport(Published()))
    for named in (ISSUER, f"{ISSUER}/"):
        bearer = Bearer(Issuer(named, client), [AUDIENCE], origin=None, roles={}, clock=lambda: NOW)
        assert (await bearer(sent(signed({"iss": f"{ISSUER}/"})))).known


async def test_who_counts_requests_is_told_of_tokens_that_are_believed_and_of_no_others(bearer):
    """All tokens of one client are one caller's; of another clinic, role or user they are somebody else's."""
    whose: list[str] = []
    counting = BELIEVED.set(whose)
    try:
        for claims in ({}, {"jti": "2", "scope": "system/Observation.rs"}, {"kap_tenant": "north"}, {"client_id": "b"}):
            await bearer(sent(signed(claims)))
        await bearer({})
        for token in (signed({"exp": NOW - 300}), signed(key=OTHER), "made up"):
            with pytest.raises(TokenRefused):
                await bearer(sent(token))
    finally:
        BELIEVED.reset(counting)
    assert len(whose) == 4
    assert whose[0] == whose[1]
    assert len(set(whose)) == 3


async def test_without_a_token_it_is_not_known_who_asks(bearer):
    caller = await bearer({})
    assert not caller.known
    assert not caller.may("Patient", "r")


@pytest.mark.parametrize("header", ["Basic YTpi", "Bearer", "Bearer ", "signed"])
async def test_another_authorization_is_refused(bearer, header):
    with pytest.raises(TokenRefused):
        await bearer({"authorization": header})


async def test_a_remembered_token_ends_all_the_same(bearer):
    token = signed()
    await bearer(sent(token))
    bearer._clock = lambda: NOW + 301 + 5
    with pytest.raises(TokenRefused, match="expired"):
        await bearer(sent(token))


async def test_a_token_that_was_taken_back_is_refused_soon(bearer, published, monkeypatch):
    token, passed = signed(), 0.0
    monkeypatch.setattr("shared.security.keys.monotonic", lambda: 1000.0 + passed)
    await bearer(sent(token))
    published.revoked.append("1")
    passed = 6.0
    with pytest.raises(TokenRefused, match="taken back"):
        await bearer(sent(token))


async def test_while_the_issuer_is_silent_tokens_are_believed_for_a_minute_and_then_nothing_is(
    bearer, published, monkeypatch
):
    token, passed = signed(), 0.0
    monkeypatch.setattr("shared.security.keys.monotonic", lambda: 1000.0 + passed)
    await bearer(sent(token))
    published.down = True
    passed = 55.0
    assert (await bearer(sent(token))).known
    passed = 120.0
    with pytest.raises(Unavailable):
        await bearer(sent(token))


async def test_a_new_key_is_found_and_an_old_one_that_was_taken_back_is_forgotten(bearer, published, monkeypatch):
    passed = 0.0
    monkeypatch.setattr("shared.security.keys.monotonic", lambda: 1000.0 + passed)
    await bearer(sent(signed()))
    published.keys = [ECKey.generate_key("P-384", parameters={"kid": "ec2", "use": "sig", "alg": "ES384"})]
    passed = 11.0
    assert (await bearer(sent(signed({"jti": "2"}, key=published.keys[0])))).known
    with pytest.raises(TokenRefused, match="does not publish"):
        await bearer(sent(signed({"jti": "3"})))


async def test_forged_key_names_do_not_make_the_issuer_be_asked_again_and_again(bearer, published):
    for number in range(20):
        with pytest.raises(TokenRefused):
            await bearer(sent(by_hand({"alg": "ES384", "kid": f"made-up-{number}"}, GOOD)))
    assert published.asked.count("/jwks") <= 2
