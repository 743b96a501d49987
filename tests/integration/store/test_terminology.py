"""Terminology as a clinic loads it from its files, and as a service asks it."""

from __future__ import annotations

import gzip
import json
import zipfile
from pathlib import Path

import pytest
import pytest_asyncio

from shared.store.store import Store
from shared.store.terminology import Loading, StoredTerminology
from shared.terminology.files.source import Source
from shared.terminology.load import load, releases
from shared.terminology.release import CannotRead

SNOMED = "http://snomed.info/sct"
LOINC = "http://loinc.org"
RXNORM = "http://www.nlm.nih.gov/research/umls/rxnorm"
CONFIDENTIALITY = "http://terminology.hl7.org/CodeSystem/v3-Confidentiality"


@pytest_asyncio.fixture
async def loading(database):
    opened = await Loading.open(database)
    yield opened
    await opened.close()


@pytest_asyncio.fixture
async def terminology(loading, store: Store):
    async with store.transaction(keys=[], tenant="default") as transaction:
        yield StoredTerminology(transaction.connection)


def table(*rows: str) -> str:
    return "\r\n".join(row.replace(" | ", "\t") for row in rows) + "\r\n"


def snomed(folder: Path) -> Path:
    """Made-up content in the form of a SNOMED CT snapshot: 3 is a 2 is a 1; 4 was retired."""
    columns = "id | effectiveTime | active | moduleId"
    relation = f"{columns} | sourceId | destinationId | relationshipGroup | typeId"
    files = {
        "sct2_Concept_Snapshot_US1_20260901.txt": table(
            f"{columns} | definitionStatusId",
            *(f"{n} | 20260901 | {a} | 0 | 9" for n, a in (("1", 1), ("2", 1), ("3", 1), ("4", 0))),
        ),
        "sct2_Description_Snapshot-en_US1_20260901.txt": table(
            f"{columns} | conceptId | languageCode | typeId | term | caseSignificanceId",
            *(f"1{n} | 20260901 | 1 | 0 | {n} | en | 900000000000003001 | Disorder {n} (disorder) | 9" for n in "1234"),
            '23 | 20260901 | 1 | 0 | 3 | en | 900000000000013009 | Third "quoted | 9',
        ),
        "der2_cRefset_LanguageSnapshot-en_US1_20260901.txt": table(
            f"{columns} | refsetId | referencedComponentId | acceptabilityId",
            "x | 20260901 | 1 | 0 | 5 | 23 | 900000000000548007",
        ),
        "sct2_Relationship_Snapshot_US1_20260901.txt": table(
            relation,
            "71 | 20260901 | 1 | 0 | 2 | 1 | 0 | 116680003",
            "72 | 20260901 | 1 | 0 | 3 | 2 | 0 | 116680003",
            "73 | 20260901 | 1 | 0 | 3 | 1 | 0 | 363698007",
            "74 | 20260901 | 0 | 0 | 1 | 3 | 0 | 116680003",
        ),
    }
    archive = folder / "SnomedCT_US_20260901.zip"
    with zipfile.ZipFile(archive, "w") as made:
        for name, text in files.items():
            made.writestr(f"SnomedCT_US/Snapshot/Terminology/{name}", text)
    return archive


def loinc(folder: Path) -> Path:
    release = folder / "Loinc_2.81"
    release.mkdir()
    (release / "Loinc.csv").write_text(
        '"LOINC_NUM","COMPONENT","STATUS","LONG_COMMON_NAME"\n"8480-6","BP","ACTIVE","Systolic, made up"\n'
        '"1-8","X","DEPRECATED","Old"\n',
        "utf-8",
    )
    (release / "ComponentHierarchyBySystem.csv").write_text(
        "PATH_TO_ROOT,SEQUENCE,IMMEDIATE_PARENT,CODE,CODE_TEXT\n,1,,LP1,Vital signs\nLP1,1,LP1,8480-6,Systolic\n",
        "utf-8",
    )
    return release


def rxnorm(folder: Path) -> Path:
    release = folder / "RxNorm_full_11022026"
    release.mkdir()
    rows = [("6130", "RXNORM", "IN", "ketamine", "N"), ("6130", "MMSL", "IN", "KETAMINE!", "N"),
            ("238083", "RXNORM", "SCD", "ketamine 100 MG/ML Injection", "N"),
            ("328316", "RXNORM", "SCDC", "ketamine 100 MG/ML", "N"), ("1", "RXNORM", "SCD", "gone", "O")]  # fmt: skip
    lines = ["|".join([r[0], "ENG", *[""] * 9, r[1], r[2], r[0], r[3], "", r[4], "", ""]) for r in rows]
    with gzip.open(release / "RXNCONSO.RRF.gz", "wt", encoding="utf-8") as file:
        file.write("\n".join(lines) + "\n")
    related = [
        ("328316", "238083", "consists_of"),
        ("6130", "328316", "has_ingredient"),
        ("238083", "6130", "ingredient_of"),
    ]
    (release / "RXNREL.RRF").write_text(
        "".join(f"{one}||CUI|RO|{two}||CUI|{how}|||RXNORM||||||\n" for one, two, how in related), "utf-8"
    )
    return release


def written(folder: Path, name: str, *resources: dict) -> Path:
    file = folder / name
    file.write_text("\n".join(json.dumps(one) for one in resources), "utf-8")
    return file


async def put(path: Path, loading: Loading) -> list[str]:
    said: list[str] = []
    await load(releases(path), loading, said.append)
    return said


async def test_snomed_ct_is_loaded_with_its_hierarchy_and_preferred_terms(tmp_path, loading, terminology):
    assert await put(snomed(tmp_path), loading) == ["SNOMED CT 20260901: 4 codes, 2 links"]
    assert await terminology.subsumes(SNOMED, "1", "3")
    assert await terminology.subsumes(SNOMED, "3", "3")
    assert not await terminology.subsumes(SNOMED, "3", "1")
    assert await terminology.ancestors(SNOMED, ["3", "unknown"]) == {
        "3": {"1", "2", "3"},
        "unknown": {"unknown"},
    }
    assert await terminology.descendants(SNOMED, "1") == {"1", "2", "3"}
    concept = await terminology.concept(SNOMED, "3")
    assert concept is not None
    assert (concept.display, concept.active, concept.parents) == ('Third "quoted', True, ("2",))
    retired = await terminology.concept(SNOMED, "4")
    assert retired is not None
    assert not retired.active
    assert await terminology.concept(SNOMED, "99") is None


async def test_loinc_is_loaded_from_its_folder(tmp_path, loading, terminology):
    assert await put(loinc(tmp_path), loading) == ["LOINC 2.81: 3 codes, 1 links"]
    assert await terminology.subsumes(LOINC, "LP1", "8480-6")


async def test_a_drug_is_below_its_ingredient(tmp_path, loading, terminology):
    assert await put(rxnorm(tmp_path), loading) == ["RxNorm 11022026: 4 codes, 2 links"]
    assert await terminology.subsumes(RXNORM, "6130", "238083")
    assert not await terminology.subsumes(RXNORM, "238083", "6130")
    concept = await terminology.concept(RXNORM, "6130")
    assert concept is not None
    assert concept.display == "ketamine"


async def test_a_load_replaces_what_was_there_whole(tmp_path, loading, terminology):
    await put(snomed(tmp_path), loading)
    system = {"resourceType": "CodeSystem", "url": SNOMED, "version": "2", "content": "fragment",
              "concept": [{"code": "9", "display": "Nine", "concept": [{"code": "10"}]}]}  # fmt: skip
    await put(written(tmp_path, "small.json", system), loading)
    assert await terminology.concept(SNOMED, "3") is None
    assert await terminology.subsumes(SNOMED, "9", "10")
    held = await terminology.system(SNOMED)
    assert held is not None
    assert (held.version, held.concepts) == ("2", 2)


async def test_value_sets_come_by_expansion_or_are_computed(tmp_path, loading, terminology):
    await put(snomed(tmp_path), loading)
    expanded = {"resourceType": "ValueSet", "url": "urn:vs:expanded", "expansion": {"contains": [
        {"system": SNOMED, "code": "1", "display": "One", "contains": [{"system": SNOMED, "code": "3"}]},
        {"system": SNOMED, "code": "root", "abstract": True}]}}  # fmt: skip
    below = {"resourceType": "ValueSet", "url": "urn:vs:below", "version": "7", "compose": {
        "include": [{"system": SNOMED, "filter": [{"property": "concept", "op": "is-a", "value": "2"}]},
                    {"valueSet": ["http://terminology.hl7.org/ValueSet/v3-ConfidentialityClassification"]}],
        "exclude": [{"system": SNOMED, "concept": [{"code": "3"}]}]}}  # fmt: skip
    await put(written(tmp_path, "sets.ndjson", expanded, below), loading)
    assert await terminology.members("urn:vs:expanded") == {SNOMED: {"1", "3"}}
    members = await terminology.members("urn:vs:below|7")
    assert members is not None
    assert members[SNOMED] == {"2"}
    assert {"N", "R", "V"} <= members[CONFIDENTIALITY]
    assert await terminology.members("urn:vs:below|8") is None
    total, page = await terminology.page("urn:vs:below", text="very", offset=0, count=10)
    assert (total, page) == (1, [(CONFIDENTIALITY, "V", "very restricted")])


async def test_a_value_set_that_draws_on_what_is_not_loaded_is_refused_and_says_what(tmp_path, loading):
    needs = {"resourceType": "ValueSet", "url": "urn:vs", "compose": {"include": [{"system": SNOMED}]}}
    with pytest.raises(CannotRead, match=r"urn:vs cannot be computed: .*snomed.* not loaded"):
        await put(written(tmp_path, "set.json", needs), loading)


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        ("a.json", "{", "neither JSON nor NDJSON"),
        ("a.json", "[1]", "no resource"),
        ("a.json", '{"resourceType":"Patient"}', "Patient is no CodeSystem or ValueSet"),
        ("a.json", '{"resourceType":"CodeSystem","concept":[{"code":"1"}]}', "without url"),
        ("a.json", '{"resourceType":"CodeSystem","url":"u","content":"not-present"}', "lists no concepts"),
        ("a.txt", "hello", "no CodeSystem and no ValueSet"),
        ("Loinc.csv", "a,b\n1,2\n", "has no column"),
        ("RXNCONSO.RRF", "1|2\n", "no file of relations"),
    ],
)
def test_what_is_no_terminology_is_refused_in_a_sentence(tmp_path, name, content, why):
    (tmp_path / name).write_text(content, "utf-8")
    with pytest.raises(CannotRead, match=why):
        releases(tmp_path)


def test_a_file_that_is_not_there_is_said(tmp_path):
    with pytest.raises(CannotRead, match="There is no file"):
        Source(tmp_path / "none.zip")


async def test_what_is_shipped_answers_where_nothing_was_loaded(terminology):
    tree = "http://terminology.hl7.org/CodeSystem/v3-RoleCode"
    assert await terminology.subsumes(tree, "_PersonalRelationshipRoleType", "MTH")
    assert "MTH" in await terminology.descendants(tree, "PRN")
    assert await terminology.members("http://hl7.org/fhir/ValueSet/administrative-gender") == {
        "http://hl7.org/fhir/administrative-gender": {"male", "female", "other", "unknown"}
    }
    assert await terminology.subsumes(SNOMED, "73211009", "73211009")
    assert await terminology.descendants(SNOMED, "73211009") == {"73211009"}
    assert await terminology.members("urn:nothing") is None
