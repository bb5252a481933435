"""The command line that explains a served request: `python -m serving.explain REQUEST_ID`.

Asks the replicas, which keep a sample of their last requests with the parameters that scored them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Final

import httpx
import typer
from rich.console import Console
from rich.table import Table

from runtime.command import run
from schema.config import Config
from schema.config_file import load_config
from schema.errors import HeadwaterError

_SECONDS: Final = 5.0


class NotExplained(HeadwaterError):  # noqa: N818 - named for what happened
    """No replica has the request with what scored it. The text says what each answered."""


def main(
    request_id: Annotated[str, typer.Argument(help="the request_id that /v1/feed answered")],
    config: Annotated[Path, typer.Option(help="the deployment's configuration")] = Path("run/config.yaml"),
) -> None:
    """Show what each slot of a request held and what scored it, and score it again from its log."""
    _show(Console(), find(load_config(config), request_id))


def find(config: Config, request_id: str) -> dict[str, Any]:
    """What a replica tells of the request.

    Raises:
        NotExplained: see there.
    """
    key = config.serving.api_key
    said = []
    with httpx.Client(timeout=_SECONDS, headers={"x-api-key": key} if key else {}) as http:
        for replica in config.serving.replicas:
            url = f"http://{replica.host}:{replica.port}/v1/explain/{request_id}"
            try:
                answer = http.get(url)
            except httpx.HTTPError as error:
                said.append(f"{url}: {error!r}")
                continue
            if answer.is_success:
                found: dict[str, Any] = answer.json()
                return found
            said.append(f"{url}: {answer.status_code} {answer.text[:300]}")
    raise NotExplained("\n".join((f"request {request_id} cannot be explained:", *said)))


def _show(console: Console, found: dict[str, Any]) -> None:
    clocks = ", ".join(
        f"shard {i}: epoch {e}, clock {c}" for i, (e, c) in enumerate(found["model"]["shards"])
    )
    console.print(f"request {found['request_id']} of user {found['user_id']} at {found['event_time']}")
    console.print(f"scored by dense version {found['model']['dense']}; {clocks}")
    for name, values in found["context"].items():
        console.print(f"  {name}: {', '.join(map(str, values)) or '-'}", highlight=False)
    tasks = list(found["items"][0]["served"])
    table = Table("position", "item", "slots", "propensity", *(f"{task}, served" for task in tasks), "again")
    for position, item in enumerate(found["items"]):
        slots = "; ".join(f"{name} {','.join(map(str, values))}" for name, values in item["slots"].items())
        same = "same bits" if item["served"] == item["again"] else str(item["again"])
        propensity = "-" if item["propensity"] is None else f"{item['propensity']:.4g}"
        served = [f"{item['served'][task]:.6f}" for task in tasks]
        table.add_row(str(position), str(item["item_id"]), slots, propensity, *served, same)
    console.print(table)
    console.print(
        "The log gives the very scores that were served." if found["same_bits"] else "THE SCORES DIFFER."
    )


if __name__ == "__main__":
    run(main)
