"""Torch modules, losses and metrics. Values in, values out: knows no Kafka, no parameter server, no files."""
