"""What a measurement was made on: the machine and the versions of what ran, for reports and benchmarks."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

_PACKAGES: Final = ("torch", "numpy", "numba", "pyarrow", "faust-streaming", "kafka-python", "msgspec")


def machine() -> dict[str, Any]:
    """Processor, cores that this process may use, memory and system."""
    pages, page = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(pages * page / 2**30, 1),
        "system": f"{platform.system()} {platform.release()}",
    }


def versions() -> dict[str, str]:
    """Python's version and those of the packages that decide how fast and how right things are."""
    return {"python": platform.python_version(), **{name: version(name) for name in _PACKAGES}}


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())
