"""What `./kap verify` decides."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from cli.compare import (
    KNOWN_WITHIN,
    Delivery,
    Digest,
    Permission,
    Version,
    compare_hospital,
    compare_ledger,
    compare_versions,
    name_of,
    unequal_types,
)
from shared.fhir.content import content_hash


def digest(type_: str, content: int, origin: str = "intake") -> Digest:
    return Digest(type_, origin, versions=2, current=1, content=content)


def there(id_: str, server_id: str, **members: Any) -> dict[str, Any]:
    identifier = [{"system": "https://kap-exchange.org/fhir/id/Observation", "value": id_}]
    return {"resourceType": "Observation", "id": server_id, "identifier": identifier, **members}


def line(id_: str, resource: dict[str, Any] | None, **changes: Any) -> Delivery:
    known: dict[str, Any] = {
        "type": "Observation",
        "id": id_,
        "state": "accepted",
        "wanted_version": 1,
        "delivered_version": 1,
        "server_id": resource["id"] if resource else None,
        "content_hash": content_hash(resource) if resource else None,
    }
    return Delivery(**{**known, **changes})


def test_equal_digests_differ_in_nothing() -> None:
    assert unequal_types("intake", [digest("Patient", 1)], [digest("Patient", 1)]) == []


def test_a_type_that_was_lost_changed_or_invented_is_named() -> None:
    committed = [digest("Patient", 1), digest("Condition", 2)]
    held = [digest("Condition", 3), digest("Goal", 4)]

    assert unequal_types("intake", committed, held) == ["Condition", "Goal", "Patient"]


def test_what_others_own_is_not_this_hops_business() -> None:
    assert (
        unequal_types("intake", [digest("Patient", 1)], [digest("Patient", 1), digest("Slot", 5, "scheduling")]) == []
    )


def test_versions_are_named_by_what_is_wrong_with_them() -> None:
    committed = [Version("Patient", "a", 1, "x"), Version("Patient", "a", 2, "y"), Version("Patient", "b", 1, "z")]
    held = [Version("Patient", "a", 1, "x"), Version("Patient", "a", 2, "changed"), Version("Patient", "c", 1, "z")]

    found = {difference.fault: difference.names for difference in compare_versions("hop", "Patient", committed, held)}

    assert found == {
        "missing": ("Patient/b version 1",),
        "unexpected": ("Patient/c version 1",),
        "different": ("Patient/a version 2",),
    }


def test_many_differences_are_counted_and_a_few_named() -> None:
    (found,) = compare_versions("hop", "Goal", [Version("Goal", str(number), 1, "x") for number in range(20)], [])

    assert found.count == 20
    assert len(found.names) == 5
    assert "and 15 more" in str(found)


def test_everything_that_is_pushed_has_a_line_at_its_version() -> None:
    current = {"Observation/a": 1, "Observation/b": 2, "Observation/c": 1, "Consent/d": 1}
    ledger = [line("a", None), line("b", None, wanted_version=1)]

    found = {each.fault: each.names for each in compare_ledger(current, ledger, frozenset({"Observation"}))}

    assert found["missing"] == ("Observation/c",)
    assert found["different"][0].startswith("Observation/b")


def test_a_refusal_by_the_hospital_is_a_difference_with_its_reason() -> None:
    ledger = [line("a", None, state="refused", said="no flowsheet row")]

    (found,) = compare_ledger({"Observation/a": 1}, ledger, frozenset({"Observation"}))

    assert found.fault == "refused"
    assert "no flowsheet row" in str(found)


def test_a_type_that_the_hospital_does_not_take_is_no_difference() -> None:
    ledger = [line("a", None, state="not-accepted")]

    assert compare_ledger({"Observation/a": 1}, ledger, frozenset({"Observation"})) == []


def test_each_accepted_line_is_in_the_hospital_exactly_once_and_as_it_was_sent() -> None:
    resource = there("a", "h1", status="final")

    hospital = compare_hospital([line("a", resource)], [resource, {"resourceType": "Patient", "id": "own"}])

    assert hospital.differences == ()
    assert hospital.ours == {"Observation": 1}
    assert hospital.foreign == 1


def test_lost_doubled_changed_moved_and_unknown_resources_are_told_apart() -> None:
    same = {id_: there(id_, f"h-{id_}", status="final") for id_ in "abcde"}
    ledger = [line(id_, same[id_]) for id_ in "abcd"]
    held = [
        same["b"],
        {**same["b"], "id": "h-b2"},
        {**same["c"], "status": "amended"},
        {**same["d"], "id": "elsewhere"},
        same["e"],
    ]

    found = {each.fault: each.names for each in compare_hospital(ledger, held).differences}

    assert found["missing"] == ("Observation/a",)
    assert found["doubled"] == ("Observation/b (2 times)",)
    assert found["different"] == ("Observation/c", "Observation/d (there elsewhere, in the ledger h-d)")
    assert found["unexpected"] == ("Observation/e",)


def test_what_is_still_to_be_sent_is_not_missed() -> None:
    assert compare_hospital([line("a", None, state="queued")], []).differences == ()


def test_only_our_identifier_makes_a_resource_ours() -> None:
    assert name_of(there("a", "h")) == "Observation/a"
    assert name_of({"resourceType": "Observation", "identifier": [{"system": "urn:x", "value": "a"}]}) is None


def test_the_hospital_is_compared_with_what_consents_permit_at_the_gateway():
    signed = datetime(2026, 11, 22, 10, tzinfo=UTC)
    soon, later = signed + KNOWN_WITHIN / 2, signed + 2 * KNOWN_WITHIN
    observations = {name: Permission(name in "ab", signed) for name in "abcde"} | {"f": Permission(False, None)}
    permissions = {f"Observation/{name}": one for name, one in observations.items()}
    permissions["Patient/p"] = Permission(permitted=True, changed=signed)
    ledger = [
        line("a", None, key="Patient/p", accepted_at=later),
        line("b", None, key="Patient/p", state="held"),
        line("c", None, key="Patient/p", state="held"),
        line("d", None, key="Patient/p", accepted_at=soon),
        line("e", None, key="Patient/p", accepted_at=later),
        line("f", None, key="Patient/p", accepted_at=soon),
    ]
    current = {name: 1 for name in permissions if name != "Patient/p"}
    (different) = compare_ledger(current, ledger, frozenset({"Observation"}), permissions)
    found = {each.fault: [name.partition(" ")[0][-1] for name in each.names] for each in different}
    assert found == {"missing": ["b"], "unexpected": ["e", "f"]}
    of_nobody = {**permissions, "Patient/p": Permission(permitted=False, changed=signed)}
    assert "missing" not in {
        one.fault for one in compare_ledger(current, ledger, frozenset({"Observation"}), of_nobody)
    }


def test_what_was_told_before_consent_was_withdrawn_is_there_and_what_was_never_told_is_not():
    before, never = there("a", "77", status="final"), there("b", "78", status="final")
    held = line("a", before, state="held", wanted_version=2)
    assert compare_hospital([held], [before]).differences == ()
    assert [one.fault for one in compare_hospital([held], []).differences] == ["missing"]
    unknown = line("b", None, state="held", delivered_version=None)
    assert [one.fault for one in compare_hospital([unknown], [never]).differences] == ["unexpected"]
    assert compare_hospital([replace(unknown, uncertain=True)], [never]).differences == ()
