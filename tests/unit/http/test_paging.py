from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.fhir.outcome import BadRequest
from shared.http.paging import PageLinks, PageToken

LINKS = PageLinks(b"k" * 32)
TOKEN = PageToken((("code", "http://loinc.org|44261-6"), ("subject:missing", "false"), ("code", "b")), "42")


def test_a_link_holds_every_parameter_in_order_and_the_cursor():
    sealed = LINKS.seal(TOKEN, tenant="default", path="Observation")
    assert LINKS.open(sealed, tenant="default", path="Observation") == TOKEN


def test_a_link_reveals_nothing():
    sealed = LINKS.seal(PageToken((("family", "Featherstonehaugh"),), "c"), tenant="default", path="Patient")
    assert "eather" not in sealed
    assert sealed != LINKS.seal(PageToken((("family", "Featherstonehaugh"),), "c"), tenant="default", path="Patient")


@pytest.mark.parametrize(
    ("tenant", "path"), [("other", "Observation"), ("default", "Patient"), ("default", "Observation/1/_history")]
)
def test_a_link_is_good_only_for_its_tenant_and_place(tenant, path):
    sealed = LINKS.seal(TOKEN, tenant="default", path="Observation")
    with pytest.raises(BadRequest):
        LINKS.open(sealed, tenant=tenant, path=path)


def test_a_link_of_another_key_is_refused():
    sealed = PageLinks(b"x" * 32).seal(TOKEN, tenant="default", path="Observation")
    with pytest.raises(BadRequest):
        LINKS.open(sealed, tenant="default", path="Observation")


@given(st.text(max_size=300))
def test_no_text_that_was_not_sealed_here_opens(text):
    with pytest.raises(BadRequest):
        LINKS.open(text, tenant="default", path="Observation")


@given(st.integers(0, 80), st.sampled_from("ABCDwxyz0189-_"))
def test_a_changed_character_is_noticed(at, character):
    sealed = LINKS.seal(TOKEN, tenant="default", path="Observation")
    changed = sealed[:at] + character + sealed[at + 1 :]
    if changed != sealed:
        with pytest.raises(BadRequest):
            LINKS.open(changed, tenant="default", path="Observation")
