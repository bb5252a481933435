"""When a compiled kernel is out of date: once its source, or that of anything it is made of, has changed.

numba looks at a kernel's own file alone. What is inlined into it, and constants that it takes from elsewhere,
would go on in its code as they were when it was compiled: after an update, without a word. So a kernel's
stamp is of its file and of all that it imports of the same sources, and what those import.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, Final

from numba.core import config
from numba.core.caching import InTreeCacheLocator, UserProvidedCacheLocator, UserWideCacheLocator

_IMPORT: Final = re.compile(r"^(?:from ([\w.]+) import (\([^)]*\)|.*)|import ([\w.]+))", re.MULTILINE)
_NAME: Final = re.compile(r"\w+")
_OURS: Final = Path(__file__).parents[1]
_SETTINGS: Any = config


def install() -> None:
    """Have numba ask for stamps here, unless its own settings say where kernels are kept."""
    if not _SETTINGS.CACHE_LOCATOR_CLASSES:
        locators = (InChosenFolder, BesideSource, InUsersFolder)
        _SETTINGS.CACHE_LOCATOR_CLASSES = ",".join(f"{__name__}.{c.__name__}" for c in locators)


def stamp(source: Path) -> str:
    """Of `source` and all files that it is made of."""
    return _stamp(source.resolve())


@cache
def _stamp(source: Path) -> str:
    found, waiting = {source}, [source]
    while waiting:
        for imported in _imports(waiting.pop()):
            if imported not in found:
                found.add(imported)
                waiting.append(imported)
    digest = hashlib.sha256()
    for path in sorted(found):
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


@cache
def _imports(source: Path) -> tuple[Path, ...]:
    """The files that `source` imports, of its own package's sources and of ours."""
    roots = {_root(source), _OURS}
    return tuple(
        path
        for module in _modules(source.read_text())
        for root in roots
        for path in (root / f"{module}.py", root / module / "__init__.py")
        if path.is_file()
    )


def _modules(text: str) -> Iterator[str]:
    """As paths, without endings. A name that is imported from a package may be a module of it."""
    for package, names, module in _IMPORT.findall(text):
        path = (package or module).replace(".", "/")
        yield path
        for name in _NAME.findall(names):
            yield f"{path}/{name}"


def _root(source: Path) -> Path:
    """Where the package that `source` is of lies."""
    folder = source.parent
    while (folder / "__init__.py").is_file():
        folder = folder.parent
    return folder


class _Stamped:
    """A locator whose files are out of date once anything that a kernel is made of has changed."""

    _py_file: str

    def get_source_stamp(self) -> str:
        """What a cached kernel has to have been made of."""
        return stamp(Path(self._py_file))


class InChosenFolder(_Stamped, UserProvidedCacheLocator):
    """In NUMBA_CACHE_DIR, if that is set."""


class BesideSource(_Stamped, InTreeCacheLocator):
    """In __pycache__ beside the source, if that can be written."""


class InUsersFolder(_Stamped, UserWideCacheLocator):
    """In the user's folder of caches."""
