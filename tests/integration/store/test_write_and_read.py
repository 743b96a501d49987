from __future__ import annotations

from shared.fhir.index import IndexRows, TokenRow
from shared.fhir.json import parse
from shared.store.access import Access
from shared.store.store import Store
from shared.store.types import Write

ALL = Access.unrestricted()


def patient(id_: str, interaction: str = "create", **more) -> Write:
    resource = None if interaction == "delete" else {"resourceType": "Patient", "id": id_, **more}
    return Write(
        interaction=interaction,
        type="Patient",
        id=id_,
        resource=resource,
        key=f"Patient/{id_}",
        patient=None,
        index=IndexRows(token=[TokenRow("gender", "http://hl7.org/fhir/administrative-gender", "male")]),
    )


async def test_what_is_written_is_read_back(store: Store):
    written = await store.write(ALL, patient("p1", gender="male", meta={"source": "urn:a", "versionId": "9"}))
    read = await store.read(ALL, "Patient", "p1")
    assert read == written.stored
    assert written.created
    assert written.sequence == 1
    body = parse(read.body)
    assert body["meta"]["versionId"] == "1"
    assert body["meta"]["source"] == "urn:a"
    assert list(body) == ["resourceType", "id", "meta", "gender"]
