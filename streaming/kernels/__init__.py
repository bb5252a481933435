"""Compiled loops of the join: bytes as our own codec writes them, matched and made without an object each."""
