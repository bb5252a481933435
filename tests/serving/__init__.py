"""The serving replica, from its pure parts to a process on real Kafka and real shards."""
