"""`./kap policy`: what a clinic's file changes, in sentences; a file no service would start with is refused."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from cli.main import app
from cli.policy import differences

RUN = CliRunner()


def write(tmp_path, sections, name="own.yaml", more=""):
    path = tmp_path / name
    path.write_text(f'version: "2"\nclinic: example\nsections: {sections}\n{more}', encoding="utf-8")
    return str(path)


def said(*arguments):
    result = RUN.invoke(app, ["policy", *arguments])
    return result.exit_code, " ".join(result.output.split())


def test_a_usable_file_is_told_with_what_it_changes_and_what_nobody_verified(tmp_path):
    own = write(
        tmp_path,
        '{eligibility: {answers_age: {days: 90, source: "Director", verified: false}}, '
        "value-sets: {lithium: {words: [lithium, lithane], verified: false}}}",
    )
    code, text = said("check", own)
    assert code == 0
    assert "recorded under 2026.11.1+example.2." in text
    assert "eligibility.answers_age.days is 90 instead of 180." in text
    assert "value-sets.lithium.words gains lithane." in text
    assert "signed off by a prescriber: value-sets.lithium." in text


def test_a_weakened_rule_is_told(tmp_path):
    name = "eligibility.rules.E12"
    own = write(
        tmp_path, "{eligibility: {rules: {E12: {severity: R}}}}", more=f'acknowledged: {{{name}: "A. Lee: study"}}'
    )
    code, text = said("check", own)
    assert code == 0
    assert f"weakens what blocks absolutely, which every decision will say: {name}. A. Lee: study" in text


@pytest.mark.parametrize(
    ("sections", "why"),
    [
        ("{eligibility: {rules: {E12: {severity: R}}}}", "E12"),
        ("{gates: {}}", "no section 'gates'"),
        ("{eligibility: {answers_age: {days: soon}}}", "section 'eligibility'"),
        ("{eligibility: {answers_age: {hours: 3}}}", "hours"),
        ("{orders: {doses: {ketamine-iv: {high: null}}}}", "section 'orders'"),
    ],
)
def test_a_file_no_service_would_start_with_is_refused(tmp_path, sections, why):
    code, text = said("check", write(tmp_path, sections))
    assert code == 1
    assert why in text


def test_two_files_are_compared_in_sentences(tmp_path):
    milder = write(tmp_path, "{eligibility: {answers_age: {days: 90}}}", "a.yaml")
    graver = write(tmp_path, "{eligibility: {rules: {E08: {severity: A}}}}", "b.yaml")
    code, text = said("diff", milder, graver)
    assert code == 0
    assert "eligibility.answers_age.days is 180 instead of 90." in text
    assert "eligibility.rules.E08.severity is A instead of R." in text
    _, back = said("diff", graver, "shipped")
    assert "eligibility.rules.E08 blocks absolutely in the first, and less in the second." in back
    assert "decide alike" in said("diff", "shipped", "shipped")[1]


def test_what_is_new_and_what_is_gone_is_told():
    before, after = {"a": {"days": 1}, "b": True}, {"a": {"days": 1}, "c": None}
    assert list(differences(before, after)) == ["b is gone; it was yes.", "c is new: nothing."]
