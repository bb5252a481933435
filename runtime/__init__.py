"""What every process has in common: logs, the ops endpoint, Kafka, the local broker and the supervisor.

Knows `schema`, no role.
"""
