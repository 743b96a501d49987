from __future__ import annotations

from collections import Counter

import pytest

from shared.events.shards import SHARDS, shard_of
from shared.events.topics import SOURCES, TOPICS, topic_of


@pytest.mark.parametrize(
    ("tenant", "key", "shard"),
    [("default", "Patient/1", 15), ("default", "Patient/2", 5), ("other", "Patient/1", 12), ("", "", 2)],
)
def test_the_shard_of_a_key_is_the_same_for_ever(tenant, key, shard):
    assert shard_of(tenant, key) == shard


def test_keys_spread_over_all_shards():
    counts = Counter(shard_of("default", f"Patient/{number}") for number in range(16_000))
    assert set(counts) == set(range(SHARDS))
    assert max(counts.values()) < 1.2 * min(counts.values())


def test_each_service_that_publishes_has_a_topic_of_its_own():
    assert topic_of("intake") == "kap.intake.v1"
    assert len(set(TOPICS)) == len(SOURCES)
