"""The command line of the demo: `python -m demo`, which `scripts/demo` wraps."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.console import Console
from rich.table import Table

from demo.report import build_report
from demo.run import Demo, RoleLogs
from demo.view import LivePage, PlainLines
from runtime import logs
from runtime.command import run
from schema.config_file import load_config, parse_override
from schema.errors import ConfigError

_CONFIGS: Final = Path(__file__).parents[1] / "configs"
_RUN_DIR: Final = Path("run/demo")
_FILES: Final = ("events.parquet", "users.parquet", "videos.parquet", "history.parquet")


def main(
    data: Annotated[Path | None, typer.Option(help="replay the KuaiRand log in this folder")] = None,
    seconds: Annotated[
        float | None, typer.Option(min=1, help="how long to run; with --data, at most this long")
    ] = None,
    report: Annotated[Path | None, typer.Option(help="write the JSON report here")] = None,
    page: Annotated[  # noqa: FBT002
        bool, typer.Option(help="show the live page and serve the console, or plain lines alone")
    ] = True,
    override: Annotated[
        list[str] | None, typer.Option("--set", help="set a key over the file's", metavar="KEY.PATH=VALUE")
    ] = None,
) -> None:
    """Run the whole loop: Kafka, join, training, parameter server, serving; then report and stop.

    Without --data simulated users drive it, for 60 s unless --seconds says otherwise. All that it writes,
    the roles' logs among it, is under run/demo, which each run clears first.
    """
    console = Console()
    if data is not None:
        _check_data(data)
    name = "local.yaml" if data is None else "replay.yaml"
    overrides: dict[str, Any] = {"run_dir": str(_RUN_DIR)}
    overrides |= dict(parse_override(text) for text in override or [])
    config = load_config(_CONFIGS / name, overrides)
    if report is not None and not report.parent.is_dir():
        raise ConfigError(f"report: {report}; legal is a file in a folder that exists")
    _clear(Path(config.run_dir))
    role_logs = RoleLogs(Path(config.run_dir) / "logs")
    live = page and console.is_terminal
    if not live:
        logs.configure("demo")
    view = LivePage(console, role_logs.trouble) if live else PlainLines(console)
    with view:
        outcome = Demo(config, data, seconds if data or seconds else 60.0, view, console=page).run(role_logs)
    written = build_report(outcome)
    if report is not None:
        report.write_text(json.dumps(written, indent=1) + "\n")
    _summary(console, written)


def _check_data(data: Path) -> None:
    missing = [name for name in _FILES if not (data / name).is_file()]
    if missing:
        raise ConfigError(
            f"data: {data} lacks {', '.join(missing)}; legal is a folder with {', '.join(_FILES)}"
        )


def _clear(run_dir: Path) -> None:
    """Removes what an earlier run left, and nothing else: a folder that no run has made stays as it is."""
    if run_dir.exists() and any(run_dir.iterdir()):
        if not (run_dir / "config.yaml").is_file():
            raise ConfigError(
                f"run_dir: {run_dir} holds other files; legal is a new folder or an earlier run's"
            )
        shutil.rmtree(run_dir)


def _summary(console: Console, written: dict[str, Any]) -> None:
    table = Table("bar", "value", "legal", "met", title="Report")
    for name, bar in written["bars"].items():
        bounds = [f"{word} {bar[key]}" for key, word in (("at_least", "≥"), ("at_most", "≤")) if key in bar]
        value = "-" if bar["value"] is None else f"{bar['value']:.4g}"
        table.add_row(name, value, " and ".join(bounds), "yes" if bar["met"] else "NO")
    console.print(table)
    names = ("exposures", "samples_trained", "duplicates_dropped", "dead_letters", "auc", "baseline_auc")
    for name in (*names, "calibration", "replica_digest_matches", "restarts", "returns"):
        console.print(f"{name}: {json.dumps(written[name])}", highlight=False, soft_wrap=True)
    for name in ("retrieval", "served_interest", "trend_recovery_seconds"):
        if written[name] is not None:
            console.print(f"{name}: {json.dumps(written[name])}", highlight=False, soft_wrap=True)
    fresh = written["freshness_seconds"]
    console.print(
        f"freshness_seconds ({fresh['kind']}): p50 {fresh['p50']}, p99 {fresh['p99']}", highlight=False
    )


if __name__ == "__main__":
    run(main)
