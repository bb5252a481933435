"""The command line that explains a served request: `python -m serving.explain REQUEST_ID`.

Asks the replicas, which keep a sample of their last requests with the parameters that scored them. Any other
request is read back from its topic, and scored again if a replica still serves the same parameters.
"""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Annotated, Any, Final

import httpx
import typer
from kafka.errors import KafkaError
from rich.console import Console
from rich.table import Table

from runtime.command import run
from runtime.errors import PlumbingError
from runtime.ops import to_json
from schema.codec import FEATURE_LOGS
from schema.config import Config
from schema.config_file import load_config
from schema.errors import HeadwaterError
from schema.records import FeatureLog
from schema.stages import STAGES, trace_name, trace_of, ways
from serving.recall import recall
from serving.telling import Teller

_SECONDS: Final = 5.0
_VERDICTS: Final = {
    True: "The log gives the very scores that were served.",
    False: "THE SCORES DIFFER.",
    None: "The parameters that scored it are gone: no replica serves that dense version at those clocks.",
}


class NotExplained(HeadwaterError):  # noqa: N818 - named for what happened
    """Neither a replica nor the topic has the request. The text says what each answered."""


def main(
    request_id: Annotated[str, typer.Argument(help="the request_id that /v1/feed answered")],
    config: Annotated[Path, typer.Option(help="the deployment's configuration")] = Path("run/config.yaml"),
    user: Annotated[int | None, typer.Option(help="whose request it was: one partition is read then")] = None,
) -> None:
    """Show what each slot of a request held and what scored it, and score it again from its log."""
    loaded, console = load_config(config), Console()
    _show(console, find(loaded, request_id, user))
    if trace_of(request_id):
        _show_ways(console, followed(loaded, request_id))


def find(config: Config, request_id: str, user: int | None = None) -> dict[str, Any]:
    """What is known of the request: of a replica that kept it, else from its log.

    Raises:
        NotExplained: see there.
    """
    said: list[str] = []
    with _http(config) as http:
        for url in _replicas(config):
            found = _ask(http, "GET", f"{url}/v1/explain/{request_id}", said)
            if found is not None:
                return found
        log = _recalled(config, request_id, user, said)
        if log is None:
            raise NotExplained("\n".join((f"request {request_id} cannot be explained:", *said)))
        body = {"envelope": base64.b64encode(FEATURE_LOGS.encode([log])).decode()}
        for url in _replicas(config):
            found = _ask(http, "POST", f"{url}/v1/explain", said, body)
            if found is not None and found["same_bits"] is not None:
                return found
    gone: dict[str, Any] = json.loads(to_json(Teller(config).tell(log, None)))
    return gone


def followed(config: Config, request_id: str) -> list[dict[str, Any]]:
    """The ways of the samples of a traced request, as far as the trainer and the replicas tell of them."""
    hosts, trainer = config.console.hosts, config.trainer.ops_port
    urls = [f"http://{hosts.get('trainer', config.ops_host)}:{trainer}/report/trainer"]
    urls += [f"{url}/report/replica" for url in _replicas(config)]
    with _http(config) as http:
        reports = [_ask(http, "GET", url, []) or {} for url in urls]
    name = trace_name(trace_of(request_id))
    return ways(*([way for way in r.get("traces", []) if way["trace"] == name] for r in reports))


def _http(config: Config) -> httpx.Client:
    key = config.serving.api_key
    return httpx.Client(timeout=_SECONDS, headers={"x-api-key": key} if key else {})


def _replicas(config: Config) -> list[str]:
    return [f"http://{replica.host}:{replica.port}" for replica in config.serving.replicas]


def _ask(
    http: httpx.Client, method: str, url: str, said: list[str], body: dict[str, str] | None = None
) -> dict[str, Any] | None:
    """What `url` answers; None, and `said` is told why, where that is an error or nothing."""
    try:
        answer = http.request(method, url, json=body)
    except httpx.HTTPError as error:
        said.append(f"{url}: {error!r}")
        return None
    if answer.is_success:
        found: dict[str, Any] = answer.json()
        return found
    said.append(f"{url}: {answer.status_code} {answer.text[:300]}")
    return None


def _recalled(config: Config, request_id: str, user: int | None, said: list[str]) -> FeatureLog | None:
    topic = config.kafka.topics.feature_logs.name
    try:
        log = recall(config.kafka, request_id, user)
    except (PlumbingError, KafkaError) as error:
        said.append(f"topic {topic}: {error}")
        return None
    if log is None:
        said.append(f"topic {topic}: no log of that id among those that it retains")
    return log


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
        same = _compared(item)
        propensity = "-" if item["propensity"] is None else f"{item['propensity']:.4g}"
        served = [f"{score:.6f}" for score in item["served"].values()]
        table.add_row(str(position), str(item["item_id"]), slots, propensity, *served, same)
    console.print(table)
    console.print(_VERDICTS[found["same_bits"]])


def _compared(item: dict[str, Any]) -> str:
    if not item["again"]:
        return "-"
    return "same bits" if item["served"] == item["again"] else str(item["again"])


def _show_ways(console: Console, found: list[dict[str, Any]]) -> None:
    """Print the times of a traced request's samples, in seconds after its event."""
    if not found:
        console.print("It is traced, but no role keeps its way any more, or nothing was learned of it yet.")
    for way in found:
        steps = (
            f"{stage} +{(way[stage] - way['event']) / 1000:.3f} s" for stage in STAGES[1:] if stage in way
        )
        console.print(f"trace {way['trace']}: {', '.join(steps)}", highlight=False)


if __name__ == "__main__":
    run(main)
