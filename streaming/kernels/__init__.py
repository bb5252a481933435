"""Compiled loops of the join: bytes as our own codec writes them are read, matched and made without objects.

numba checks no bounds: a place that was read out of a message is looked at first.
"""
