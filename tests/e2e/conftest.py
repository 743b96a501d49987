"""A whole stack for end-to-end tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from cli.stack.ports import Ports
from tests.e2e.kap import Kap, free_base


@pytest.fixture(scope="module")
def make_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Kap]]:
    """Start stacks by ``make_stack("--kafka", "memory")``; they are stopped at the module's end."""
    made: list[Kap] = []

    def make(*options: str) -> Kap:
        kap = Kap(tmp_path_factory.mktemp("kap"), Ports(free_base()))
        made.append(kap)
        kap.must("up", "--detach", "--port-base", str(kap.ports.base), *options)
        return kap

    yield make
    for kap in made:
        kap.run("down")
