"""The parameter server costs the online step little: its rate over the bare network's, and over torch's own.

Claim: the trainer, with decoding, duplicates, journal, evaluation, and pulls and pushes over Flight to two
shard processes, trains at 0.6 times the rate of the network alone, and 2.5 times that of a torch loop with
`nn.Embedding(sparse=True)`, a dict of ids and Adagrad.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
import yaml
from harness import Benchmark
from step_sides.online import online
from step_sides.others import DenseSide, TorchSide
from step_sides.samples import Samples

from runtime.ports import free_port
from schema.config import Config
from schema.config_file import load_config
from trainer.columns.blocks import Blocks
from trainer.columns.rows import BlockRows
from trainer.messages import MessageReader
from trainer.rows import Rows

_CONFIG = Path(__file__).parents[1] / "configs/local.yaml"
_CAPACITY = 1_000_000


def main(
    rows: Annotated[int, typer.Option(help="Rows a round.", min=1000)] = 50_000,
    batch_rows: Annotated[int, typer.Option(help="Rows a batch.", min=1)] = 512,
    impressions: Annotated[int, typer.Option(help="Rows a request.", min=1, max=16)] = 1,
    rounds: Annotated[int, typer.Option(help="Alternations.", min=3)] = 5,
) -> None:
    """Measure all three sides, in turn."""
    torch.set_num_threads(1)
    bench = Benchmark("step")
    with tempfile.TemporaryDirectory() as folder:
        file = _config_file(Path(folder), batch_rows)
        config = load_config(file)
        samples = Samples(config, impressions, seed=1)
        batches = _batches(config, samples.messages(rows), batch_rows)
        dense, sparse = DenseSide(config, batches), TorchSide(config, batches, _CAPACITY)
        with online(config, file) as side:
            bench.say("warming up")
            side.rate(samples.messages(rows // 5))
            sides = {
                "online_samples_per_second": lambda: side.rate(samples.messages(rows)),
                "dense_samples_per_second": dense.rate,
                "torch_sparse_samples_per_second": sparse.rate,
            }
            results = bench.alternate(sides, rounds)
    bench.measured["batch_rows"] = batch_rows
    bench.measured["rows_a_request"] = impressions
    bench.measured["distinct_ids_a_batch"] = float(np.mean(dense.distinct_ids()))
    online_rate, dense_rate, torch_rate = sides
    bench.ratio_bar("over_dense_compute", results, online_rate, dense_rate, at_least=0.6)
    bench.ratio_bar("over_torch_sparse", results, online_rate, torch_rate, at_least=2.5)
    bench.finish()


def _config_file(folder: Path, batch_rows: int) -> Path:
    ports = [{"port": free_port(), "ops_port": free_port()} for _ in range(2)]
    settings: dict[str, Any] = {
        "extends": str(_CONFIG.resolve()),
        "run_dir": str(folder / "run"),
        "parameter_server": {"shards": ports},
        "trainer": {"batch_rows": batch_rows, "baseline": False},
        # a network of its own, which the other sides do not have
        "retrieval": None,
    }
    file = folder / "step.yaml"
    file.write_text(yaml.safe_dump(settings))
    return file


def _batches(config: Config, messages: list[bytes], rows: int) -> list[Rows]:
    """The samples of `messages`, decoded, in batches of at least `rows`."""
    reader = MessageReader("samples", config.features, [task.name for task in config.tasks])
    batches: list[list[Blocks]] = [[]]
    for offset, message in enumerate(messages):
        for entry in reader.entries(0, offset, message):
            if entry.blocks is None:
                raise ValueError(f"message {offset}: {entry.dead}")
            batches[-1].append(entry.blocks)
        if sum(blocks.rows for blocks in batches[-1]) >= rows:
            batches.append([])
    return [BlockRows(Blocks.joined(batch)) for batch in batches if batch]


if __name__ == "__main__":
    typer.run(main)
