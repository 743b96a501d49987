"""The local PostgreSQL, wherever a clone of the project may lie."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import pytest

from shared.local import postgres
from shared.local.postgres import PostgresCluster


@pytest.mark.skipif(os.geteuid() != 0, reason="only where root starts it does PostgreSQL run as someone else")
def test_a_clone_in_a_folder_that_only_root_may_enter_gets_its_postgresql(monkeypatch: pytest.MonkeyPatch) -> None:
    installed = postgres.binaries().parent
    with tempfile.TemporaryDirectory(dir=installed.parents[1]) as folder:  # made with mode 0700, on the same disk
        clone = Path(folder)
        shutil.copytree(installed, clone / "pginstall", copy_function=os.link, symlinks=True)
        monkeypatch.setattr(postgres, "binaries", lambda: clone / "pginstall" / "bin")
        cluster = PostgresCluster(clone / "data")
        try:
            cluster.start()
            assert cluster.execute("SELECT 1")
        finally:
            cluster.stop(immediate=True)
