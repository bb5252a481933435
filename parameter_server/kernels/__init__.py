"""Compiled loops over plain arrays: array in, array out, no Python object, no lock (they release the GIL).

Every kernel has one explicit signature, so that it is compiled once, at import, and then comes from the
on-disk cache, which processes that start together fill together. Inputs may be read-only.
"""
