"""The data beside the repository is there, or it is said; in CI its want is a failure, and its cases are counted."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import data


@pytest.mark.parametrize("made", [(), ("hl7-r4-examples",)], ids=["absent", "empty"])
def test_a_folder_without_cases_fails_in_ci_and_is_told_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, made: tuple[str, ...]
):
    for name in made:
        (tmp_path / name).mkdir()
    monkeypatch.setattr(data, "FOLDER", tmp_path)
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="hl7-r4-examples"):
        data.shared_data("hl7-r4-examples")
    monkeypatch.setenv("CI", "")
    with pytest.raises(pytest.skip.Exception, match="hl7-r4-examples"):
        data.shared_data("hl7-r4-examples")


def test_no_case_went_missing_unseen():
    assert len(data.examples()) > 350
    assert len(data.synthea_bundles()) > 15
