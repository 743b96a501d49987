"""What a privacy consent lets be told, by the rows the store makes of it, against the same said in Python."""

from __future__ import annotations

import asyncio
from itertools import count

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shared.fhir.codes import ACT_CODE
from shared.fhir.query import parse_search
from shared.store.access import Access, Disclosure
from shared.store.store import Store
from shared.testing.events import eventually
from shared.testing.writes import write_of
from tests.integration.security.consents import (
    DISCLOSURES,
    LABELLED,
    PATTERNS,
    consent,
    consents,
    permits,
    provision,
)

_NUMBERS = count()
H1, H2 = frozenset(("Organization/h1",)), frozenset(("Organization/h2",))
TREAT = Disclosure(H1, frozenset(("TREAT",)))


CARE = (
    {},
    {"recordedDate": "2025-06-01"},
    {"recordedDate": "2026-01-01", "recorder": {"reference": "Practitioner/doc"}},
)


def of_a_time(number, labels):
    """Return a Condition that says when it was, and by whom; the next one is about the one before."""
    before = {"evidence": [{"detail": [{"reference": f"Condition/c{number - 1}"}]}]} if number else {}
    return {**condition(f"c{number}", labels), **CARE[number % len(CARE)], **before}


def condition(id_, labels, patient="ada"):
    return {
        "resourceType": "Condition",
        "id": id_,
        "meta": {"security": [{"system": ACT_CODE, "code": one} for one in labels]} if labels else {},
        "subject": {"reference": f"Patient/{patient}"},
    }


async def told(store, given_consents, bearing, disclosure):
    """Return of which Conditions with these labels the recipient learns, in a clinic of their own."""
    whole = Access.unrestricted(f"clinic{next(_NUMBERS)}")
    await store.write(whole, write_of({"resourceType": "Patient", "id": "ada"}))
    for number, one in enumerate(given_consents):
        await store.write(whole, write_of({**one, "id": f"k{number}"}))
    for number, labels in enumerate(bearing):
        await store.write(whole, write_of(of_a_time(number, labels)))
    page = await store.search(recipient(whole, disclosure), parse_search("Condition", [("_count", "50")], strict=True))
    return {one.id for one in page.entries}


def recipient(whole, disclosure):
    return Access(whole.tenant, None, None, frozenset(), None, disclosure)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], deadline=None)
@given(st.lists(consents("ada"), max_size=3), st.lists(LABELLED, min_size=1, max_size=4), DISCLOSURES)
async def test_what_consents_let_be_told_is_what_they_say(store: Store, given_consents, bearing, disclosure) -> None:
    held = {f"Condition/c{number}": of_a_time(number, labels) for number, labels in enumerate(bearing)}
    expected = {
        f"c{number}"
        for number, labels in enumerate(bearing)
        if permits(given_consents, labels, disclosure, about=of_a_time(number, labels), held=held)
    }
    assert await told(store, given_consents, bearing, disclosure) == expected


@pytest.mark.parametrize(
    ("pattern", "disclosure", "seen"),
    [
        (None, TREAT, []),
        ("P1", TREAT, ["", "SUD"]),
        ("P1", Disclosure(H2, frozenset(("HPAYMT",))), ["", "SUD"]),
        ("P1", Disclosure(H1, frozenset(("HRESCH",))), []),
        ("P1", Disclosure(H1, frozenset(("HLEGAL",))), []),
        ("P2", TREAT, ["", "SUD"]),
        ("P2", Disclosure(H2, frozenset(("TREAT",))), []),
        ("P3", TREAT, [""]),
        ("P4", TREAT, ["", "SUD"]),
        ("P5", TREAT, ["", "SUD", "42CFRPart2"]),
        ("P6", TREAT, []),
        ("P6", Disclosure(H1, frozenset(("ETREAT",))), ["", "SUD"]),
        ("P7", TREAT, []),
        ("P8", TREAT, ["", "SUD"]),
        ("P8", Disclosure(H1, frozenset(("HPAYMT",))), []),
        ("P9", Disclosure(H1, frozenset(("HRESCH",))), ["", "SUD"]),
        ("P9", TREAT, []),
        (None, Disclosure(H1, frozenset(("TREAT",)), permitted=True), ["", "SUD"]),
        ("P7", Disclosure(H1, frozenset(("TREAT",)), permitted=True), []),
    ],
)
async def test_each_pattern_lets_be_told_what_it_is_for(store: Store, pattern, disclosure, seen) -> None:
    """Of a plain Condition, one about substance use, one of a programme under Part 2, and a process note."""
    bearing = ["", "SUD", "42CFRPart2", "PSYTHPN"]
    given_consents = [] if pattern is None else [consent("ada", PATTERNS[pattern], part_2=pattern == "P5")]
    found = await told(store, given_consents, [[one] if one else [] for one in bearing], disclosure)
    assert [bearing[int(one[1:])] for one in sorted(found)] == seen


async def test_a_deny_of_one_consent_is_not_undone_by_another(store: Store) -> None:
    both = [consent("ada", PATTERNS["P1"]), consent("ada", provision("deny", to=["Organization/h1"]))]
    assert await told(store, both, [[]], TREAT) == set()
    assert await told(store, both, [[]], Disclosure(H2, frozenset(("TREAT",)))) == {"c0"}


HIE = "Organization/hie"
THROUGH = {
    "itself": Disclosure(frozenset((HIE,)), frozenset(("TREAT",))),
    "for h1": Disclosure(H1, frozenset(("TREAT",)), through=frozenset((HIE,))),
    "for h2": Disclosure(H2, frozenset(("TREAT",)), through=frozenset((HIE,))),
    "h1 itself": TREAT,
    "for h1 by another": Disclosure(H1, frozenset(("TREAT",)), through=H2),
}


@pytest.mark.parametrize(
    ("rule", "may"),
    [
        (provision("permit", through=[HIE]), {"itself", "for h1", "for h2"}),
        (provision("permit", through=[HIE], to=["Organization/h1"]), {"itself", "for h1", "h1 itself"}),
        (provision("permit", to=["Organization/h1"]), {"h1 itself"}),
        (provision("permit", to=[HIE]), {"itself"}),
        (provision("permit"), {"itself", "h1 itself"}),
        (
            provision("permit", through=[HIE], provision=[provision("deny", to=["Organization/h2"])]),
            {"itself", "for h1"},
        ),
        (provision("permit", through=[HIE], provision=[provision("deny", to=[HIE])]), set()),
    ],
    ids=["general designation", "named participant", "no intermediary", "recipient", "anybody", "but one", "denied"],
)
async def test_a_programmes_record_goes_through_an_intermediary_that_the_consent_names_and_no_other(
    store: Store, rule, may
) -> None:
    """42 CFR 2.31(a)(4)(ii): its name; its participants by theirs, or all who treat the patient."""
    consent_ = [consent("ada", rule, part_2=True)]
    found = {name for name, one in THROUGH.items() if await told(store, consent_, [["42CFRPart2"]], one)}
    assert found == may


@pytest.mark.parametrize("code", ["OPTOUT", "OPTOUTE"])
async def test_opting_out_by_policy_alone_denies_all(store: Store, code) -> None:
    out = consent("ada", {}, policyRule={"coding": [{"system": ACT_CODE, "code": code}]})
    del out["provision"]
    assert await told(store, [consent("ada", PATTERNS["P1"])], [[]], TREAT) == {"c0"}
    assert await told(store, [consent("ada", PATTERNS["P1"]), out], [[]], TREAT) == set()


async def test_who_does_not_say_who_he_is_may_be_whom_a_patient_denies(store: Store) -> None:
    nameless = Disclosure(frozenset(), frozenset(("TREAT",)))
    for denial in (
        provision("deny", to=["Organization/h1"]),
        provision("permit", why=["TREAT"], provision=[provision("deny", to=["Organization/h1"])]),
    ):
        given_both = [consent("ada", PATTERNS["P1"]), consent("ada", denial)]
        assert await told(store, given_both, [[]], nameless) == set()
        assert await told(store, given_both, [[]], Disclosure(H1, frozenset(("TREAT",)))) == set()
        assert await told(store, given_both, [[]], Disclosure(H2, frozenset(("TREAT",)))) == {"c0"}


async def test_a_consent_that_is_withdrawn_changed_or_deleted_counts_so_at_once(store: Store) -> None:
    whole = Access.unrestricted("at once")
    asks = recipient(whole, TREAT)
    query = parse_search("Condition", [("_total", "accurate")], strict=True)

    async def total():
        return (await store.search(asks, query)).total

    for resource in ({"resourceType": "Patient", "id": "ada"}, condition("c", [])):
        await store.write(whole, write_of(resource))
    assert await total() == 0
    permit = {**consent("ada", PATTERNS["P1"]), "id": "k"}
    await store.write(whole, write_of(permit))
    assert await total() == 1
    for status, seen in (("inactive", 0), ("active", 1)):
        await store.write(whole, write_of({**permit, "status": status}, "update"))
        assert await total() == seen
    await store.write(whole, write_of({**permit, "provision": provision("deny")}, "update"))
    assert await total() == 0
    await store.write(whole, write_of(permit, "update"))
    assert await total() == 1
    await store.write(whole, write_of(permit, "delete"))
    assert await total() == 0


def joined(id_, *others):
    """Return a Patient who is said to be the same person as others."""
    links = [{"other": {"reference": f"Patient/{one}"}, "type": "replaces"} for one in others]
    return {"resourceType": "Patient", "id": id_, **({"link": links} if links else {})}


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], deadline=None)
@given(
    st.lists(consents("ada"), max_size=2),
    st.lists(consents("eve"), max_size=2),
    st.lists(LABELLED, min_size=1, max_size=2),
    DISCLOSURES,
    st.permutations(["ada", "bob", "eve", "consents of ada", "consents of eve"]),
)
async def test_what_is_denied_in_one_record_of_a_person_is_denied_in_all_that_are_joined_until_they_are_parted(
    store: Store, own, theirs, bearing, disclosure, order
) -> None:
    """Eve's record was joined with bob's, bob's with ada's; the news of it comes in any order."""
    whole = Access.unrestricted(f"clinic{next(_NUMBERS)}")
    asks = recipient(whole, disclosure)
    query = parse_search("Condition", [("_count", "50")], strict=True)
    news = {
        "ada": [joined("ada", "bob")],
        "bob": [joined("bob", "eve")],
        "eve": [joined("eve")],
        "consents of ada": [{**one, "id": f"a{number}"} for number, one in enumerate(own)],
        "consents of eve": [{**one, "id": f"e{number}"} for number, one in enumerate(theirs)],
    }
    for name in order:
        for one in news[name]:
            await store.write(whole, write_of(one))
    for number, labels in enumerate(bearing):
        await store.write(whole, write_of(of_a_time(number, labels)))

    async def seen():
        return {one.id for one in (await store.search(asks, query)).entries}

    held = {f"Condition/c{number}": of_a_time(number, labels) for number, labels in enumerate(bearing)}

    def expected(besides):
        return {
            f"c{number}"
            for number, labels in enumerate(bearing)
            if permits(own, labels, disclosure, about=of_a_time(number, labels), held=held, joined=besides)
        }

    assert await seen() == expected(theirs)
    await store.write(whole, write_of(joined("bob"), "update"))
    assert await seen() == expected(())
    await store.write(whole, write_of(joined("bob", "eve"), "update"))
    for number, one in enumerate(theirs):
        await store.write(whole, write_of({**one, "id": f"e{number}", "status": "inactive"}, "update"))
    assert await seen() == expected(())


async def test_a_denial_that_is_signed_while_its_record_is_joined_is_kept_with_the_other(store: Store) -> None:
    """Whoever of the two commits later sees what the other wrote."""
    whole = Access.unrestricted("joining")
    for one in ("ada", "bob"):
        await store.write(whole, write_of(joined(one)))
    await store.write(whole, write_of({**consent("bob", PATTERNS["P1"]), "id": "kb"}))
    await store.write(whole, write_of(condition("c", [], "bob")))
    asks, query = recipient(whole, TREAT), parse_search("Condition", [], strict=True)
    assert len((await store.search(asks, query)).entries) == 1
    async with store.transaction(keys=("Patient/ada",), tenant="joining") as signing:
        await signing.write(whole, write_of({**consent("ada", provision("deny")), "id": "ka"}))
        joining = asyncio.create_task(store.write(whole, write_of(joined("bob", "ada"), "update")))

        async def waits_or_is_done():
            waits = await signing.connection.fetchval(
                "SELECT EXISTS (SELECT FROM pg_locks l JOIN pg_database d ON d.oid = l.database "
                "WHERE d.datname = current_database() AND l.locktype = 'advisory' AND NOT l.granted)"
            )
            return waits or joining.done()

        await eventually(waits_or_is_done)
    await joining
    assert (await store.search(asks, query)).entries == []


async def test_of_a_joined_record_what_only_permits_is_not_kept_with_the_other(store: Store) -> None:
    """So that a program from before, in the time of an upgrade, takes it for no permission."""
    whole = Access.unrestricted("permitting")
    for one in (joined("ada"), joined("bob", "ada"), {**consent("ada", PATTERNS["P1"]), "id": "ka"}):
        await store.write(whole, write_of(one))

    async def kept():
        async with store.transaction(keys=(), tenant="permitting") as transaction:
            return await transaction.connection.fetchval("SELECT count(*) FROM consent_rule WHERE linked")

    assert await kept() == 0
    denial = {**PATTERNS["P1"], "provision": [provision("deny", labels=["PSY"])]}
    await store.write(whole, write_of({**consent("ada", denial), "id": "ka"}, "update"))
    assert await kept() == 2
    await store.write(whole, write_of({**consent("ada", PATTERNS["P1"]), "id": "ka"}, "update"))
    assert await kept() == 0


async def test_a_groups_visit_that_names_others_is_not_told_of_by_ones_consent(store: Store) -> None:
    """Not even where each of them permits it: to each of the others it tells who else was there."""
    whole = Access.unrestricted("group")
    for one in ("ada", "bob"):
        await store.write(whole, write_of({"resourceType": "Patient", "id": one}))
        await store.write(whole, write_of({**consent(one, PATTERNS["P1"]), "id": f"k{one}"}))
    for id_, who in (("alone", ["ada"]), ("both", ["ada", "bob"])):
        actors = [{"actor": {"reference": f"Patient/{one}"}, "status": "accepted"} for one in who]
        await store.write(
            whole, write_of({"resourceType": "Appointment", "id": id_, "status": "booked", "participant": actors})
        )
    page = await store.search(recipient(whole, TREAT), parse_search("Appointment", [], strict=True))
    assert [one.id for one in page.entries] == ["alone"]


@pytest.mark.parametrize(
    ("about", "seen"),
    [
        ({"dataPeriod": {"start": "2026"}}, {"c2"}),
        ({"dataPeriod": {"end": "2025-06-01"}}, {"c1"}),
        ({"dataPeriod": {"start": "2025", "end": "2026-01-01"}}, {"c1", "c2"}),
        ({"data": [{"meaning": "instance", "reference": {"reference": "Condition/c1"}}]}, {"c1"}),
        ({"data": [{"meaning": "related", "reference": {"reference": "Condition/c1"}}]}, {"c0", "c1"}),
        ({"data": [{"meaning": "dependents", "reference": {"reference": "Condition/c1/_history/1"}}]}, {"c1", "c2"}),
        ({"data": [{"meaning": "authoredby", "reference": {"reference": "Practitioner/doc"}}]}, {"c2"}),
        ({"data": [{"meaning": "instance", "reference": {"display": "that one"}}]}, set()),
    ],
)
async def test_a_consent_is_about_the_data_it_says(store: Store, about, seen) -> None:
    """c0 says no time; c1 is of June 2025; c2 of January 2026, by doc; each names the one before."""
    permit = consent("ada", {**PATTERNS["P1"], **about})
    assert await told(store, [permit], [[], [], []], TREAT) == seen
    denied = consent("ada", {**PATTERNS["P1"], "provision": [provision("deny", **about)]})
    unknown = {"c0"} if "dataPeriod" in about else set()  # what does not say its time is denied, too
    hidden = seen | unknown if seen else {"c0", "c1", "c2"}
    assert await told(store, [denied], [[], [], []], TREAT) == {"c0", "c1", "c2"} - hidden
