"""The console as a web application: its pages, its probes, and the one watch that they share."""

from __future__ import annotations

from fastapi import Response
from nicegui import app, ui

from console.dashboard import Dashboard
from console.phone import Phone
from console.watch import Watch

_UNAVAILABLE = 503


def install(watch: Watch) -> None:
    """Have the application show `watch`, from its start to its stop."""
    app.on_startup(watch.start)
    app.on_shutdown(watch.stop)

    @ui.page("/")
    def dashboard() -> None:
        Dashboard(watch).build()

    @ui.page("/phone")
    async def phone() -> None:
        await Phone(watch.roles).build()

    @app.get("/healthz")
    def healthz() -> Response:
        """Whether the process answers."""
        return Response("ok\n", media_type="text/plain")

    @app.get("/readyz")
    def readyz() -> Response:
        """Whether there is something to show."""
        if watch.looking:
            return Response("ready\n", media_type="text/plain")
        return Response("not ready: no look has been taken yet\n", _UNAVAILABLE, media_type="text/plain")
