"""Embedding tables by id, sharded over processes: rows, optimizers, deltas, checkpoints, and the client.

Knows neither models nor Kafka. Trainers and replicas import `client` and `replica`; only shards and
replicas pay for the compiled kernels.
"""
