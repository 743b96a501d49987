"""Making the topics at start, and asking whether Kafka is there."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

import structlog
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import KafkaError, NodeNotReadyError, TopicAlreadyExistsError, for_code

from shared.events.kafka import MAX_REQUEST_BYTES, KafkaConnection
from shared.events.topics import PARTITIONS, RETENTION_MS

log = structlog.get_logger(__name__)

_TRY_AGAIN_SECONDS = 5.0
_LOOK_AGAIN_SECONDS = 0.1
_BROKERS_DEFAULT = -1


async def is_reachable(connection: KafkaConnection, *, timeout: float = 5.0) -> bool:
    """Return whether a new client can connect to Kafka now."""
    admin = AIOKafkaAdminClient(**connection.options())
    try:
        async with asyncio.timeout(timeout):
            await admin.start()
    except (KafkaError, OSError, TimeoutError):
        return False
    finally:
        await admin.close()
    return True


async def ensure_topics(
    connection: KafkaConnection, topics: Iterable[str], *, partitions: int = PARTITIONS, timeout: float | None = None
) -> None:
    """Make the topics that are not there yet; try again until Kafka answers.

    A topic that is there stays as it is: with another number of partitions a key would change its partition, and its
    events their order. How many replicas a topic has is the broker's setting `default.replication.factor`.

    Raises:
        TimeoutError: Kafka did not make them within `timeout` seconds; None tries without end.

    """
    wanted = sorted(set(topics))
    delay = 0.2
    async with asyncio.timeout(timeout):
        while True:
            try:
                await _ensure(connection, wanted, partitions)
            except (KafkaError, OSError) as error:
                log.warning("kafka_not_ready", error=str(error) or type(error).__name__, again_in=delay)
                await asyncio.sleep(delay)
                delay = min(delay * 2, _TRY_AGAIN_SECONDS)
            else:
                return


async def _ensure(connection: KafkaConnection, topics: list[str], partitions: int) -> None:
    admin = AIOKafkaAdminClient(**connection.options())
    try:
        await admin.start()
        there = set(await admin.list_topics())  # asking for them by name could make them, with other settings than ours
        for one in await admin.describe_topics([name for name in topics if name in there] or None):
            if one["topic"] in topics and len(one["partitions"]) != partitions:
                log.warning("topic_has_other_partitions", topic=one["topic"], partitions=len(one["partitions"]))
        missing = [name for name in topics if name not in there]
        if not missing:
            return
        cluster = await admin.describe_cluster()
        if cluster["controller_id"] not in {broker["node_id"] for broker in cluster["brokers"]}:
            await admin.describe_topics(missing)  # the in-memory broker makes topics when asked for them, and only so
            if set(missing) <= set(await admin.list_topics()):
                return
            raise NodeNotReadyError("Kafka has no controller now")
        made = await admin.create_topics([_new(name, partitions) for name in missing])
        for name, code, *_ in made.topic_errors:
            error = for_code(code)
            if code != 0 and error is not TopicAlreadyExistsError:
                raise error(name)
        await _until_known(admin, missing)
    finally:
        await admin.close()


async def _until_known(admin: AIOKafkaAdminClient, topics: list[str]) -> None:
    """Wait until the broker that answers knows the topics: it hears of new ones from the controller a moment later."""
    while True:
        known = {
            one["topic"] for one in await admin.describe_topics(topics) if not one["error_code"] and one["partitions"]
        }
        if known >= set(topics):
            return
        await asyncio.sleep(_LOOK_AGAIN_SECONDS)


def _new(name: str, partitions: int) -> NewTopic:
    topic = NewTopic(name, partitions, 1, topic_configs=_topic_settings())
    topic.replication_factor = _BROKERS_DEFAULT  # Kafka knows -1 since 2.4, aiokafka's constructor does not
    return topic


def _topic_settings() -> dict[str, str]:
    return {
        "retention.ms": str(RETENTION_MS),
        "cleanup.policy": "delete",
        "max.message.bytes": str(MAX_REQUEST_BYTES),
    }
