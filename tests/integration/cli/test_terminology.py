"""`./kap terminology`: the same release into every service's database."""

from __future__ import annotations

import asyncio
import json

from typer.testing import CliRunner

from cli.main import app
from shared.store.terminology import Loading
from tests.integration.store.test_terminology import SNOMED, snomed

SYSTEM = {
    "resourceType": "CodeSystem",
    "url": "urn:clinic:own",
    "version": "3",
    "title": "The clinic's own",
    "content": "complete",
    "concept": [{"code": "a", "display": "A", "concept": [{"code": "b", "display": "B"}]}],
}

PROBLEMS = {
    "resourceType": "ValueSet",
    "url": "urn:clinic:problems",
    "status": "active",
    "compose": {"include": [{"system": SNOMED, "filter": [{"property": "concept", "op": "is-a", "value": "2"}]}]},
}


def run(*arguments: str):
    return CliRunner().invoke(app, ["terminology", *arguments])


def test_files_are_loaded_into_every_database_named_and_listed(tmp_path, make_database):
    file = tmp_path / "own.json"
    file.write_text(json.dumps(SYSTEM), "utf-8")
    databases = [f"--database={make_database(name)}" for name in ("intake", "gateway")]
    done = run("load", str(file), *databases)
    assert done.exit_code == 0, done.output
    assert "The clinic's own 3: 2 codes, 1 links" in done.output
    listed = run("list", *databases)
    assert listed.exit_code == 0, listed.output
    assert "urn:clinic:own" in listed.output
    assert "all" in listed.output
    missing = run("list", *databases, f"--database={make_database('sessions')}")
    assert missing.exit_code == 1


async def test_what_was_loaded_answers(tmp_path, make_database):
    file = tmp_path / "own.json"
    file.write_text(json.dumps(SYSTEM), "utf-8")
    database = make_database("intake")
    loading = await Loading.open(database)
    try:
        done = await asyncio.to_thread(run, "load", str(file), f"--database={database}")
        assert done.exit_code == 0, done.output
        assert await loading.terminology.subsumes("urn:clinic:own", "a", "b")
    finally:
        await loading.close()


async def test_a_release_of_snomed_ct_is_loaded_by_one_command_and_then_codes_are_below_each_other(
    tmp_path, make_database
):
    """The content is made up; its form is that of an RF2 snapshot, as licensees get it."""
    database = make_database("intake")
    archive = snomed(tmp_path)
    problems = tmp_path / "problems.json"
    problems.write_text(json.dumps(PROBLEMS), "utf-8")
    done = await asyncio.to_thread(run, "load", str(archive), str(problems), f"--database={database}")
    assert done.exit_code == 0, done.output
    assert "4 codes" in done.output
    loading = await Loading.open(database)
    try:
        assert await loading.terminology.subsumes(SNOMED, "1", "3")
        assert not await loading.terminology.subsumes(SNOMED, "3", "1")
        assert await loading.terminology.members("urn:clinic:problems") == {SNOMED: frozenset(("2", "3"))}
    finally:
        await loading.close()


def test_a_file_that_is_no_terminology_is_refused_in_a_sentence(tmp_path, database):
    file = tmp_path / "x.json"
    file.write_text("{}", "utf-8")
    done = run("load", str(file), f"--database={database}")
    assert done.exit_code == 1
    assert "no CodeSystem" in str(done.exception)
