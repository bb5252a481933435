"""Compiled loops of the join: bytes as our own codec writes them are read, matched and made without objects.

numba's cache looks at a kernel's own file only: after an edit of `wire.py`, or of what is `inlined`, remove
`kernels/__pycache__`. numba checks no bounds: a place that was read out of a message is looked at first.
"""
