"""Producers: the replay of recorded logs, and simulated users against a serving replica.

Knows `schema/`, `runtime/` and HTTP; no other role.
"""
