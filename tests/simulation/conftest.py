"""What the tests of the producers share."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def _logging_as_pytest_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The commands set up a process's logging, which in a test belongs to pytest."""
    monkeypatch.setattr("runtime.logs.configure", lambda _role: None)
