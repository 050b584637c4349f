"""The bus that the configuration names."""

import importlib
from types import ModuleType

from reco_ray.config import BusKind, EventsConfig
from reco_ray.errors import ConfigError
from reco_ray.events.bus import Producer, Reader
from reco_ray.events.valkey import ValkeyProducer, ValkeyReader

__all__ = ["open_producer", "open_reader"]


def open_producer(config: EventsConfig, namespace: str, store_url: str) -> Producer:
    """Open the writing side; it connects when it is first used.

    Args:
        store_url: of the online store, which is the bus where ``config.bus`` names no other.
    Raises: ConfigError: Kafka is asked for and its client is not installed.
    """
    bus = config.bus
    if bus.kind is BusKind.kafka:
        made: Producer = _kafka().KafkaProducer(bus, namespace, dead_letters_days=config.dead_letters_days)
        return made
    return ValkeyProducer(bus.url or store_url, namespace, bus.partitions, dead_letters_days=config.dead_letters_days)


def open_reader(config: EventsConfig, namespace: str, store_url: str, topic: str, partition: int) -> Reader:
    """Open the reading side of one partition.

    Raises: ConfigError: as `open_producer`.
    """
    bus = config.bus
    if bus.kind is BusKind.kafka:
        reader: Reader = _kafka().KafkaReader(bus, namespace, topic, partition, dead_letters_days=config.dead_letters_days)
        return reader
    return ValkeyReader(bus.url or store_url, namespace, topic, partition)


def _kafka() -> ModuleType:
    try:
        return importlib.import_module("reco_ray.events.kafka")
    except ImportError as exc:
        raise ConfigError(
            "events.bus.kind=kafka: found no package confluent-kafka, expected it; pip install 'reco-ray[kafka]'"
        ) from exc
