"""A kernel is compiled anew once anything that it is made of has changed, and only then."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from runtime import kernel_cache

ROOT = Path(__file__).parents[2]
KERNEL = """
from parts import constants
from parts.inlined import twice
from runtime.compiled import I64, kernel

@kernel(I64(I64))
def compute(x):
    return twice(x) + constants.MORE
"""
INLINED = """
from runtime.compiled import inlined

@inlined
def twice(x):
    return {factor} * x
"""


@pytest.fixture
def package(tmp_path):
    parts = tmp_path / "parts"
    parts.mkdir()
    (parts / "__init__.py").write_text("")
    (parts / "kernel.py").write_text(KERNEL)
    (parts / "inlined.py").write_text(INLINED.format(factor=2))
    (parts / "constants.py").write_text("MORE = 1\n")
    (parts / "other.py").write_text("")
    return parts


def computed(package: Path) -> tuple[int, int]:
    """compute(10), and how many kernels were taken from the cache, in a process of its own."""
    code = "from parts.kernel import compute; print(compute(10), sum(compute.stats.cache_hits.values()))"
    env = {**os.environ, "PYTHONPATH": f"{package.parent}:{ROOT}", "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True, timeout=120
    )
    value, hits = done.stdout.split()
    return int(value), int(hits)


def test_a_kernel_follows_what_is_inlined_into_it_and_its_constants(package):
    assert computed(package) == (21, 0)
    assert computed(package) == (21, 1)
    (package / "other.py").write_text("# changed\n")
    assert computed(package) == (21, 1)
    (package / "inlined.py").write_text(INLINED.format(factor=3))
    assert computed(package) == (31, 0)
    (package / "constants.py").write_text("MORE = 5\n")
    assert computed(package) == (35, 0)
    assert computed(package) == (35, 1)


def test_a_stamp_is_of_all_that_is_imported_however_far_away(tmp_path):
    (tmp_path / "a.py").write_text("from b import (\n    x,\n    y,\n)\n")
    (tmp_path / "b.py").write_text("import c\nx = y = 1\n")
    (tmp_path / "c.py").write_text("import a\n")
    before = kernel_cache.stamp(tmp_path / "a.py")
    kernel_cache._stamp.cache_clear()
    assert kernel_cache.stamp(tmp_path / "a.py") == before
    (tmp_path / "c.py").write_text("import a\nz = 2\n")
    kernel_cache._stamp.cache_clear()
    assert kernel_cache.stamp(tmp_path / "a.py") != before


def test_every_kernel_of_ours_is_asked_of_here():
    from parameter_server.kernels import search  # noqa: PLC0415 - what is looked at

    assert isinstance(search.find._cache._impl.locator, kernel_cache._Stamped)
