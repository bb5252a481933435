"""The operator's page: what the whole deployment does now, and the levers to change it."""

from __future__ import annotations

import html
from collections.abc import Callable
from typing import Any, Final

from nicegui import ui

from console import charts, theme
from console.roles import Answer
from console.series import newest_stages, recovery_points, replica_rows
from console.watch import EVERY_SECONDS, Watch

_INTERVALS: Final = {1: "1 s", 2: "2 s", 5: "5 s", 10: "10 s", 30: "30 s", 60: "60 s"}
_COLUMNS: Final = {
    "name": "replica",
    "state": "state",
    "clocks": "shard clocks",
    "dense": "weights",
    "behind": "last round",
    "rows": "rows",
    "feeds": "feeds",
    "spooled": "spooled",
}


class Dashboard:
    """One visitor's page."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch
        self._plots: dict[str, ui.echart] = {}
        self._tiles: dict[str, ui.html] = {}

    def build(self) -> None:
        """Make the page, and keep it current."""
        theme.apply("Headwater")
        with ui.element("main").classes("hw-page"):
            self._top()
            with ui.element("section").classes("hw-tiles"):
                for name in ("events", "trained", "feeds", "fresh", "auc", "interest"):
                    self._tiles[name] = ui.html("", sanitize=False).classes("hw-tile")
            with ui.element("section").classes("hw-grid"):
                self._charts()
            with ui.element("section").classes("hw-card"):
                ui.html("<h2>Replicas</h2>", sanitize=False)
                self._table = ui.html("", sanitize=False).classes("hw-scroll")
            self._operator()
        self._refresh()
        ui.timer(EVERY_SECONDS, self._refresh)

    def _top(self) -> None:
        with ui.element("header").classes("hw-top"):
            ui.html('<div class="hw-brand"><b>≋</b> Headwater</div>', sanitize=False)
            self._health = ui.html("", sanitize=False)
            ui.element("div").classes("hw-grow")
            ui.button("Open the phone", icon="smartphone", on_click=lambda: ui.navigate.to("/phone")).props(
                "unelevated no-caps rounded"
            )

    def _charts(self) -> None:
        truth = "Known to the simulation alone: how likely users are to click what they are shown."
        self._chart("interest", "True interest served", truth, charts.lines(decimals=2), wide=True)
        self._chart(
            "stages",
            "Freshness by stage",
            "From a sample's completion to the first feed that has learned from it.",
            charts.stages(),
        )
        self._chart("throughput", "Throughput", "A second.", charts.lines(least=0))
        lag = "Messages that wait for the trainer; requests whose window is open."
        self._chart("lag", "Lag", lag, charts.lines(least=0))
        self._chart(
            "freshness", "Freshness", "Completed to served, in seconds.", charts.lines(least=0, decimals=1)
        )
        prequential = "Each sample is scored before it is trained on."
        self._chart("auc", "AUC by task", prequential, charts.lines(decimals=2))
        calibration = "Predicted over observed; 1 is right."
        around_one = charts.lines(least=0, most=2, decimals=1)
        self._chart("calibration", "Calibration by task", calibration, around_one)
        growth = "By shard now; evicted: those of all shards that have expired or made room."
        self._chart("rows", "Table rows", growth, charts.lines(least=0))

    def _chart(
        self, name: str, title: str, text: str, options: dict[str, Any], *, wide: bool = False
    ) -> None:
        with ui.element("article").classes("hw-card" + (" hw-wide" if wide else "")):
            ui.html(f'<h2>{title}</h2><div class="hw-dim">{text}</div>', sanitize=False)
            self._plots[name] = ui.echart(options).classes("hw-chart")

    def _operator(self) -> None:
        roles = self._watch.roles
        with ui.element("section").classes("hw-card"):
            ui.html("<h2>Operator</h2>", sanitize=False)
            ui.html(
                '<div class="hw-dim">What is changed here lasts until a role restarts.</div>', sanitize=False
            )
            with ui.element("div").classes("hw-ops"):
                self._pause = _button("Pause sync", "pause", self._toggle_pause)
                ui.select(_INTERVALS, label="Sync every", on_change=self._set_interval, value=None).props(
                    "outlined dense dark"
                ).classes("w-40").mark("interval")
                self._trend = _button("Inject a trend", "trending_up", self._inject)
                self._point = _button("Recovery point", "save", self._make_point)
                self._points = ui.select({}, label="Point").props("outlined dense dark").classes("w-56")
                self._back = _button("Roll back", "history", self._ask_back)
        self._roles = roles

    async def _make_point(self) -> None:
        self._point.disable()
        answer = await self._roles.recovery_point()
        _tell([answer], f"Recovery point {answer.body.get('number')} is made")

    def _ask_back(self) -> None:
        """Roll back, once that is confirmed: what was learned since the point is given up."""
        number = self._points.value
        with ui.dialog(value=True) as dialog, ui.card():
            ui.label(
                f"Return everything to recovery point {number}? What was learned since is learned again."
            )

            async def go() -> None:
                dialog.close()
                _tell([await self._roles.roll_back(number)], f"Returned to recovery point {number}")

            with ui.row():
                _button("Return to it", "history", go)
                _button("Cancel", "close", dialog.close)

    async def _toggle_pause(self) -> None:
        paused = self._paused()
        _tell(await self._roles.change_sync(paused=not paused), "Sync resumed" if paused else "Sync paused")

    async def _set_interval(self, event: Any) -> None:
        if event.value is not None:
            answers = await self._roles.change_sync(sparse_seconds=event.value)
            _tell(answers, f"Rows are pulled every {event.value} s")

    async def _inject(self) -> None:
        answer = await self._roles.inject_trend(None, 0.7)
        _tell([answer], f"Everybody now likes topic {answer.body.get('topic')}")

    def _paused(self) -> bool:
        replicas = zip(self._watch.snapshot.replicas, self._watch.roles.frozen, strict=False)
        return any(r["paused"] for r, frozen in replicas if r and not frozen)

    def _refresh(self) -> None:
        snapshot, series = self._watch.snapshot, self._watch.series
        up, total = snapshot.answering
        state, text = ("ok", f"{up} roles up") if up == total else ("bad", f"{up} of {total} roles answer")
        self._health.set_content(f'<span class="hw-pill {state}">{text}</span>')
        marks = [trend["at"] for trend in (snapshot.simulation or {}).get("trends", [])]
        for name, plot in self._plots.items():
            found = (
                charts.stage_series(newest_stages(snapshot))
                if name == "stages"
                else charts.series(series.lines(name), marks if name == "interest" else None)
            )
            plot.options["series"] = found
            plot.update()
        for name, content in self._figures().items():
            self._tiles[name].set_content(content)
        self._table.set_content(_table(replica_rows(snapshot, self._watch.roles.frozen)))
        self._pause.set_text("Resume sync" if self._paused() else "Pause sync")
        self._trend.set_enabled(snapshot.simulation is not None)
        points = recovery_points(snapshot)
        self._point.set_enabled(points is not None)
        self._back.set_enabled(bool(points))
        if points and points != self._points.options:
            kept = self._points.value if self._points.value in points else next(iter(points))
            self._points.set_options(points, value=kept)
        self._points.set_visibility(bool(points))

    def _figures(self) -> dict[str, str]:
        latest = self._watch.series.latest
        task = next(iter((self._watch.snapshot.trainer or {}).get("tasks", ())), "click")
        live, frozen = (latest("interest", arm) for arm in ("live", "frozen"))
        versus = "" if frozen is None else f"vs {frozen:.2f} frozen"
        return {
            "events": _tile("Events joined", latest("throughput", "events"), 0, "a second"),
            "trained": _tile("Samples trained", latest("throughput", "samples trained"), 0, "a second"),
            "feeds": _tile("Feeds served", latest("throughput", "feeds"), 0, "a second"),
            "fresh": _tile("Completed to served", latest("freshness", "p50"), 2, "s, median"),
            "auc": _tile(f"AUC, {html.escape(task)}", latest("auc", task), 3, "before training"),
            "interest": _tile("Interest served", live, 2, versus or "true click rate"),
        }


def _button(label: str, icon: str, on_click: Callable[[], Any] | None) -> ui.button:
    return ui.button(label, icon=icon, on_click=on_click).props("outline no-caps color=primary")


def _tell(answers: list[Answer], done: str) -> None:
    failed = [answer.error for answer in answers if answer.error is not None]
    if failed:
        ui.notify("; ".join(failed), type="negative")
    else:
        ui.notify(done, type="positive")


def _tile(label: str, value: float | None, decimals: int, unit: str) -> str:
    shown = "-" if value is None else f"{value:,.{decimals}f}"
    return f'<div class="hw-dim">{label}</div><span class="v">{shown}</span><span class="u">{unit}</span>'


def _table(rows: list[dict[str, Any]]) -> str:
    head = "".join(f"<th>{title}</th>" for title in _COLUMNS.values())
    body = "".join(f"<tr>{''.join(_cell(key, row.get(key, '-')) for key in _COLUMNS)}</tr>" for row in rows)
    return f'<table class="hw-table"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'


def _cell(key: str, value: Any) -> str:
    text = html.escape(str(value))
    return f'<td><span class="hw-state {text}">{text}</span></td>' if key == "state" else f"<td>{text}</td>"
