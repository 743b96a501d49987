"""The policy: loaded, cited, overridden by a clinic, refused where it cannot be understood."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest

from shared.fhir.cited import Cited
from shared.runtime.policy import FOLDER, Policy, PolicyError, load_policy


class Limit(Cited, frozen=True, kw_only=True, forbid_unknown_fields=True):
    minutes: int


class Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    age: Limit


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


@pytest.fixture
def shipped(tmp_path: Path) -> Path:
    folder = tmp_path / "policies"
    folder.mkdir()
    write(folder, "policy.yaml", 'version: "7"\n')
    write(folder, "gate.yaml", "age: {minutes: 30, source: label, verified: true}\n")
    return folder


def cited(content: object) -> list[dict[str, object]]:
    """Return every mapping that carries a source, wherever it is."""
    if isinstance(content, dict):
        own = [content] if "source" in content else []
        return own + [one for value in content.values() for one in cited(value)]
    return [one for value in content for one in cited(value)] if isinstance(content, list) else []


def test_every_shipped_entry_names_its_source_and_says_whether_it_was_verified():
    for name, section in load_policy().sections.items():
        entries = cited(section)
        assert entries, name
        assert all(entry["source"] and isinstance(entry.get("verified"), bool) for entry in entries), name


def test_a_clinic_overrides_one_entry_and_the_version_says_so(shipped, tmp_path):
    own = write(
        tmp_path,
        "own.yaml",
        'version: "3"\nclinic: example\nsections: {gate: {age: {minutes: 20, source: director, verified: false}}}\n',
    )
    policy = load_policy(own, folder=shipped)
    assert re.fullmatch(r"7\+example\.3\.[0-9a-f]{12}", policy.version)
    assert policy.section("gate", Section) == Section(Limit(minutes=20, source="director", verified=False))


def test_without_an_override_the_shipped_version_decides(shipped):
    policy = load_policy(folder=shipped)
    assert policy.version == "7"
    assert policy.section("gate", Section).age.minutes == 30


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("clinic: a\nsections: {}\n", "version"),
        ('version: "1"\nclinic: a\nsections: {gates: {}}\n', "no section 'gates'"),
        ('version: "1"\nclinic: a\nsections: []\n', "mapping"),
        ("- 1\n", "mapping"),
        ("a: [\n", "not YAML"),
    ],
)
def test_an_override_that_cannot_be_understood_is_refused(shipped, tmp_path, text, says):
    with pytest.raises(PolicyError, match=says):
        load_policy(write(tmp_path, "own.yaml", text), folder=shipped)


@pytest.mark.parametrize(
    "entry",
    ["{minutes: 20}", "{minutes: x, source: a, verified: true}", "{minutes: 1, source: a, verified: true, hours: 1}"],
)
def test_an_entry_without_source_of_the_wrong_kind_or_unknown_is_refused(shipped, tmp_path, entry):
    write(shipped, "gate.yaml", f"age: {entry}\n")
    with pytest.raises(PolicyError, match="section 'gate'"):
        load_policy(folder=shipped).section("gate", Section)


def test_a_missing_file_is_named():
    with pytest.raises(PolicyError, match="nowhere"):
        load_policy(Path("/nowhere/own.yaml"))


def test_an_unknown_section_is_named():
    with pytest.raises(PolicyError, match="no section 'none'"):
        load_policy().section("none", Section)


def test_the_shipped_folder_is_found():
    assert (FOLDER / "policy.yaml").is_file()


# -- what a clinic may change, and what it may not silently ------------------------------------------------------------


def own(tmp_path, sections, acknowledged="{}"):
    text = f'version: "1"\nclinic: example\nsections: {sections}\nacknowledged: {acknowledged}\n'
    return write(tmp_path, "own.yaml", text)


WEAKER = [
    ("{eligibility: {rules: {E12: {severity: R}}}}", "eligibility.rules.E12"),
    ("{eligibility: {rules: {E12: null}}}", "eligibility.rules.E12"),
    ("{eligibility: {rules: {E12: {question: null}}}}", "eligibility.rules.E12"),
    ("{eligibility: {rules: {E12: {observations: []}}}}", "eligibility.rules.E12"),
    ("{eligibility: {rules: {E12: {override: {ketamine: 1}}}}}", "eligibility.rules.E12"),
    ("{eligibility: {rules: {E01: {severity: {esketamine: R}}}}}", "eligibility.rules.E01"),
    ("{eligibility: {rules: {E01: {severity: {esketamine/46713006: R}}}}}", "eligibility.rules.E01"),
    ("{eligibility: {rules: {E01: {override: {ketamine: 1}}}}}", "eligibility.rules.E01"),
    ("{eligibility: {rules: {E13: {age_below: 16}}}}", "eligibility.rules.E13"),
    ("{eligibility: {rules: {E05: {recent: {days: 7}}}}}", "eligibility.rules.E05"),
    ("{eligibility: {rules: {E12: {asked: dose}}}}", "eligibility.rules.E12"),
    ("{interactions: {I-THEOPHYLLINE: {severity: I}}}", "interactions.I-THEOPHYLLINE"),
    ("{value-sets: {pregnancy: {codes: []}}}", "value-sets.pregnancy"),
    ("{value-sets: {theophylline: null}}", "value-sets.theophylline"),
]


@pytest.mark.parametrize(("sections", "name"), WEAKER)
def test_what_blocks_absolutely_is_not_weakened_silently(tmp_path, sections, name):
    with pytest.raises(PolicyError, match=name):
        load_policy(own(tmp_path, sections))
    policy = load_policy(own(tmp_path, sections, f'{{"{name}": "Medical director, 2026-10-01: why"}}'))
    assert policy.acknowledged == {name: "Medical director, 2026-10-01: why"}
    with pytest.raises(PolicyError, match=name):
        load_policy(own(tmp_path, sections, f'{{"{name}": " "}}'))


@pytest.mark.parametrize(
    "sections",
    [
        "{eligibility: {rules: {E08: {severity: I}}}}",
        "{eligibility: {rules: {E08: {severity: A}}}}",
        "{eligibility: {rules: {E01: {severity: A}}}}",
        "{eligibility: {rules: {E12: {advice: Ask again}}}}",
        "{value-sets: {naltrexone: {codes: []}}}",
        "{interactions: {I-LITHIUM: {severity: R}}}",
    ],
)
def test_what_is_relative_or_made_graver_needs_no_acknowledgement(tmp_path, sections):
    load_policy(own(tmp_path, sections))


def test_what_is_acknowledged_must_be_weakened(tmp_path):
    with pytest.raises(PolicyError, match="does not weaken"):
        load_policy(own(tmp_path, "{}", '{eligibility.rules.E12: "why"}'))


def test_a_clinic_adds_codes_to_a_set_of_an_absolute_rule(tmp_path):
    codes = load_policy().sections["value-sets"]["pregnancy"]["codes"]
    more = [*codes, {"system": "urn:clinic", "code": "P"}]
    assert len(load_policy(own(tmp_path, f"{{value-sets: {{pregnancy: {{codes: {more}}}}}}}")).sections) > 1


def test_an_unknown_entry_of_the_file_is_named(tmp_path):
    with pytest.raises(PolicyError, match="'section' is not known"):
        load_policy(write(tmp_path, "own.yaml", 'version: "1"\nclinic: a\nsection: {}\n'))


def test_a_policy_is_made_again_from_its_content_and_named_by_its_digest(tmp_path):
    shipped = load_policy()
    again = Policy.of_content(shipped.content)
    assert again == shipped
    assert again.digest == shipped.digest
    other = load_policy(own(tmp_path, "{eligibility: {answers_age: {days: 90}}}"))
    assert other.digest != shipped.digest
    assert other.version.startswith(f"{shipped.version}+example.1.")


def test_two_files_of_one_version_have_versions_of_their_own(tmp_path):
    first = load_policy(own(tmp_path, "{eligibility: {answers_age: {days: 90}}}"))
    second = load_policy(own(tmp_path, "{eligibility: {answers_age: {days: 91}}}"))
    assert first.version != second.version
