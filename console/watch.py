"""Looks at all roles once a second for as long as the console runs, and keeps what it saw for every page."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from typing import Final

from console.roles import Roles, Snapshot
from console.series import Series

_log = logging.getLogger(__name__)

EVERY_SECONDS: Final = 1.0


class Watch:
    """The state of the deployment as all pages show it."""

    def __init__(self, roles: Roles) -> None:
        self.roles = roles
        self.series = Series()
        self.snapshot = Snapshot(0.0)
        self._task: asyncio.Task[None] | None = None

    @property
    def looking(self) -> bool:
        """Whether a first look has been taken."""
        return self.snapshot.at > 0

    def start(self) -> None:
        """Begin to look."""
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def stop(self) -> None:
        """Look no more."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        await self.roles.close()

    async def look(self) -> None:
        """Take one look now."""
        self.snapshot = await self.roles.snapshot(time.time())
        self.series.add(self.snapshot)

    async def _run(self) -> None:
        while True:
            began = time.monotonic()
            try:
                await self.look()
            except (KeyError, TypeError, ValueError):
                # a role of another version reports otherwise; the others are shown all the same
                _log.exception("a report could not be read")
            await asyncio.sleep(max(0.1, EVERY_SECONDS - (time.monotonic() - began)))
