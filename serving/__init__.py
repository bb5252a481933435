"""A serving replica: follows the shards and the topics, ranks candidates, answers over HTTP, logs features.

Knows nothing of training or of the join.
"""
