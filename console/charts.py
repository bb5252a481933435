"""The look of the plots: ECharts options, one palette. Pure; knows no page."""

from __future__ import annotations

from typing import Any, Final

from console.series import Point

INK: Final = "#e6edf3"
DIM: Final = "#8b98a9"
GRID: Final = "#202b3a"
PALETTE: Final = ("#4cc9f0", "#f9a03f", "#b388ff", "#5dd39e", "#ff6b8b", "#c9d1d9")

_COLOURS: Final = {
    "live": "#4cc9f0",
    "frozen": "#ff6b8b",
    "best possible": "#3a4a5f",
    "p99": "#f9a03f",
    "evicted": "#ff6b8b",
}
_STAGES: Final = (
    ("joined", "joined", "#f9a03f"),
    ("trained", "trained", "#b388ff"),
    ("applied", "published and applied", "#4cc9f0"),
    ("served", "served", "#5dd39e"),
)


def lines(*, least: float | None = None, most: float | None = None, decimals: int = 0) -> dict[str, Any]:
    """An empty plot of lines over time; the value axis is fixed at the ends that are given."""
    return {
        "animation": False,
        "color": list(PALETTE),
        "grid": {"left": 8, "right": 14, "top": 34, "bottom": 6, "containLabel": True},
        "legend": {
            "top": 0,
            "left": 4,
            "itemWidth": 14,
            "itemHeight": 3,
            "icon": "roundRect",
            "textStyle": {"color": DIM, "fontSize": 11},
        },
        "tooltip": {
            "trigger": "axis",
            "backgroundColor": "#0b1220",
            "borderColor": GRID,
            "textStyle": {"color": INK, "fontSize": 12},
        },
        "xAxis": {
            "type": "time",
            "axisLabel": {"color": DIM, "fontSize": 10, "hideOverlap": True},
            "axisLine": {"lineStyle": {"color": GRID}},
            "splitLine": {"show": False},
        },
        "yAxis": {
            "type": "value",
            "scale": True,
            "min": least,
            "max": most,
            "splitNumber": 4,
            "minInterval": 0 if decimals else 1,
            "axisLabel": {"color": DIM, "fontSize": 10, ":formatter": _number(decimals)},
            "splitLine": {"lineStyle": {"color": GRID}},
        },
        "series": [],
    }


def series(found: dict[str, list[Point]], marks: list[float] | None = None) -> list[dict[str, Any]]:
    """The lines of a plot; `marks` are moments (Unix ms) at which a trend set in."""
    plotted = [
        {
            "name": name,
            "type": "line",
            "showSymbol": False,
            "lineStyle": {"width": 2, "type": "dashed" if name == "best possible" else "solid"},
            **({"itemStyle": {"color": _COLOURS[name]}} if name in _COLOURS else {}),
            "data": [list(point) for point in points],
        }
        for name, points in found.items()
    ]
    if plotted and marks:
        plotted[0]["markLine"] = {
            "symbol": "none",
            "animation": False,
            "label": {"formatter": "trend", "color": DIM, "fontSize": 10},
            "lineStyle": {"color": "#f9a03f", "type": "dotted"},
            "data": [{"xAxis": at} for at in marks],
        }
    return plotted


def stages() -> dict[str, Any]:
    """An empty plot of the stages of a sample's way, for its median and its 99th percentile."""
    options = lines()
    options["tooltip"] |= {"trigger": "item"}
    options["xAxis"] = {
        "type": "value",
        "axisLabel": {"color": DIM, "fontSize": 10, "formatter": "{value} s"},
        "splitLine": {"lineStyle": {"color": GRID}},
    }
    options["yAxis"] = {
        "type": "category",
        "data": ["p99", "p50"],
        "axisLabel": {"color": DIM, "fontSize": 11},
        "axisLine": {"lineStyle": {"color": GRID}},
    }
    return options


def stage_series(found: dict[str, Any]) -> list[dict[str, Any]]:
    """The bars of `stages` for a replica's freshness by stage."""
    return [
        {
            "name": label,
            "type": "bar",
            "stack": "way",
            "barWidth": 22,
            "itemStyle": {"color": colour, "borderRadius": 3},
            "data": [round((found.get(name) or {}).get(p, 0.0), 3) for p in ("p99", "p50")],
        }
        for name, label, colour in _STAGES
    ]


def _number(decimals: int) -> str:
    options = f"{{maximumFractionDigits: {decimals}, notation: v >= 100000 ? 'compact' : 'standard'}}"
    return f"v => v.toLocaleString('en', {options})"
