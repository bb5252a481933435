"""A recovery point of trainer and shards every 30 s costs little, and a killed process costs seconds.

Claim: with a point every 30 s the trainer, through two shard processes, trains at least 95 % of the samples
that it trains without. A round is 30 s of training at full speed, however many rows that is, in eight sides;
during one of them a point is made, of all rows that changed since that of the round before. What this side
takes longer, until the point is there, than the median of the three before it and the three behind it, is
what the point costs; over 30 s, it is the share of throughput. (So a trainer that gets slower as it knows
more is not taken for the point.) `cpu_seconds_a_point_costs` is the same of the time that trainer and shards
computed, which a busy machine does not change.

How many rows change in 30 s, and how many are new, is the stream's doing: see `recovery_parts/stream.py`.
`--new-users 1 --new-items 1` is as hard as it can be, each row a new user and a new item.

Then a shard is killed (-9), as late after a point as can be, and started again, and the clock runs until the
step at which it was killed has been done again; then the trainer.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from harness import Benchmark
from prometheus_client import REGISTRY
from recovery_parts.deployment import Deployment
from recovery_parts.kills import after_a_shard, after_the_trainer
from recovery_parts.stream import Mix, Stream

from trainer.loop import Trainer

_WARM_ROWS = 10_000
_SIDES = 8
"""To a round."""
_POINT_AT = 4
"""Which of them has a point."""
_BESIDE = 3
"""How many before it and behind it, it is compared with."""


class Round:
    """Training in turn without and with a point.

    Args:
        deployment: what is trained.
        trainer: who trains.
        stream: on what.
    """

    def __init__(self, deployment: Deployment, trainer: Trainer, stream: Stream) -> None:
        self._deployment, self._trainer, self._stream = deployment, trainer, stream
        self._rows, self._files, self._phases = deployment.rows(), deployment.files(), _phases()
        self.points: list[dict[str, float]] = []

    def train(self, rows: int, *, with_point: bool = False) -> tuple[float, float]:
        """Train `rows` more and, with one, make a point, asked for at the start.

        Returns:
            The seconds until all that is done, and those that all processes computed.
        """
        trainer, log = self._trainer, self._deployment.log
        log.write(self._stream.messages(rows))
        began, computed = time.perf_counter(), self._deployment.cpu_seconds()
        made = trainer.ask_point() if with_point else None
        there = began
        while log.left(trainer) or not trainer.idle or (made is not None and not made.done()):
            trainer.advance()
            if made is not None and there == began and made.done():
                there = time.perf_counter()
        took = time.perf_counter() - began, self._deployment.cpu_seconds() - computed
        if made is not None:
            made.result(0)
            self._note(there - began)
        return took

    def _note(self, seconds: float) -> None:
        """What the newest point was of."""
        deployment = self._deployment
        rows, files, phases = deployment.rows(), deployment.files(), _phases()
        written, changes = deployment.written_rows()
        self.points.append(
            {
                "rows_changed": written if changes else float("nan"),
                "rows_written": written,
                "new_rows": rows - self._rows,
                "mebibytes": sum(files[inode] for inode in files.keys() - self._files.keys()) / (1 << 20),
                "seconds_to_make": seconds,
                **{name: phases[name] - self._phases[name] for name in phases},
            }
        )
        self._rows, self._files, self._phases = rows, files, phases
        deployment.forget_read()


def _phases() -> dict[str, float]:
    """Seconds that points have taken so far: the shards' sum, training that waited, and writing beside it."""
    name = "headwater_trainer_recovery_point_seconds_sum"
    names = {"shard": "shards_seconds", "cut": "stop_seconds", "write": "write_seconds"}
    return {said: REGISTRY.get_sample_value(name, {"phase": phase}) or 0.0 for phase, said in names.items()}


def main(
    every: Annotated[float, typer.Option(help="Seconds of training between two points.", min=4)] = 30.0,
    batch_rows: Annotated[int, typer.Option(help="Rows a batch.", min=1)] = 512,
    rounds: Annotated[int, typer.Option(help="Alternations.", min=3)] = 5,
    new_users: Annotated[
        float, typer.Option(help="Share of rows of a user never seen.", min=0, max=1)
    ] = 0.04,
    new_items: Annotated[
        float, typer.Option(help="Share of rows of an item never seen.", min=0, max=1)
    ] = 0.007,
) -> None:
    """Measure what a point costs, then kill."""
    torch.set_num_threads(1)
    bench = Benchmark("recovery")
    mix = Mix(new_users=new_users, new_items=new_items)
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        deployment = Deployment(Path(folder), batch_rows, stack)
        deployment.fill(mix)
        with deployment.trainer() as trainer:
            stream = Stream(deployment.config, mix, seed=1)
            alternation = Round(deployment, trainer, stream)
            bench.say("warming up")
            rate = _WARM_ROWS / min(alternation.train(_WARM_ROWS)[0] for _ in range(3))
            alternation.train(round(rate * every / 2))
            # so that the first point comes 30 s later, too
            alternation.train(round(rate * every / 2), with_point=True)
            extra = _cost(bench, alternation, round(rate * every), rounds)
            bench.bar("throughput_cost", statistics.median(extra) / every, at_most=0.05)
            # three sides have followed the last point
            alternation.train(round(rate * every * (0.95 - (_SIDES - 1 - _POINT_AT) / _SIDES)))
            bench.say("killing a shard")
            bench.measured["steps_since_the_point"] = deployment.steps_since_point(trainer)
            step = trainer.state.counters.step
            bench.measured["seconds_after_a_shards_kill"] = after_a_shard(deployment, trainer).described()
        bench.say("the trainer anew")
        bench.measured["seconds_after_the_trainers_kill"] = after_the_trainer(deployment, step).described()
    bench.measured |= {"rows_a_second": rate, "batch_rows": batch_rows, "seconds_between_points": every}
    bench.measured |= {"new_users": new_users, "new_items": new_items}
    bench.finish()


def _cost(bench: Benchmark, alternation: Round, rows: int, rounds: int) -> list[float]:
    """Seconds that each round's point cost; a round trains `rows`."""
    alternation.points.clear()
    taken: list[tuple[float, float]] = []
    for number in range(rounds * _SIDES):
        taken.append(alternation.train(rows // _SIDES, with_point=number % _SIDES == _POINT_AT))
        bench.say(f"side {number + 1} of {rounds * _SIDES}: {taken[-1][0]:.3f} s")
    at = range(_POINT_AT, len(taken), _SIDES)
    extra, computed = ([_beyond([side[k] for side in taken], place) for place in at] for k in range(2))
    figures: dict[str, list[float]] = {
        "seconds_without": [side[0] for number, side in enumerate(taken) if number not in at],
        "seconds_with_a_point": [taken[place][0] for place in at],
        "seconds_a_point_costs": extra,
        "cpu_seconds_a_point_costs": computed,
    }
    figures |= {f"{name}_a_point": [p[name] for p in alternation.points] for name in alternation.points[0]}
    bench.measured |= {name: _spread(values) for name, values in figures.items()}
    return extra


def _beyond(values: list[float], place: int) -> float:
    """What the value at `place` has beyond the median of the six around it."""
    around = values[place - _BESIDE : place] + values[place + 1 : place + 1 + _BESIDE]
    return values[place] - statistics.median(around)


def _spread(values: list[float]) -> dict[str, Any]:
    known = [value for value in values if value == value]  # noqa: PLR0124 - not a number
    if not known:
        return {"median": None}
    return {"median": statistics.median(known), "min": min(known), "max": max(known)}


if __name__ == "__main__":
    typer.run(main)
