"""The one boundary to the Kafka client library: clients, topics and envelope producers."""

from runtime.kafka.clients import consumer, end_offsets, producer, wait_for_broker
from runtime.kafka.envelopes import EnvelopeProducer
from runtime.kafka.topics import ensure_topics

__all__ = [
    "EnvelopeProducer",
    "consumer",
    "end_offsets",
    "ensure_topics",
    "producer",
    "wait_for_broker",
]
