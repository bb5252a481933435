"""Makes checkpoints for the shards of a configuration out of those of another deployment that is stopped."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from parameter_server import checkpoint
from parameter_server.checkpoint import Checkpoints
from parameter_server.errors import CheckpointError
from parameter_server.restore import complete_sets, folder_of, rerouted
from parameter_server.shard import Shard
from schema.config import ParameterServerConfig


class Made(NamedTuple):
    """A checkpoint that a shard will start from."""

    shard: int
    path: Path
    clock: int
    rows: dict[str, int]


def reroute(settings: ParameterServerConfig, sources: Sequence[Path], run_dir: Path) -> list[Made]:
    """For every shard of `settings` a checkpoint under `run_dir`, of the newest whole ones in `sources`.

    Args:
        settings: what to make checkpoints for.
        sources: the folders of all shards of the other deployment, in any order.
        run_dir: of this deployment; none of its shards may have a checkpoint yet.

    Raises:
        CheckpointError: the sources are not those of all shards, or a shard has checkpoints already.
    """
    complete = complete_sets(sources)
    if not complete:
        raise CheckpointError(
            f"from: {', '.join(map(str, sources))}; legal are the folders of all shards of one deployment"
        )
    shards = range(len(settings.shards))
    for shard in shards:
        if checkpoint.found(folder_of(run_dir, shard)):
            raise CheckpointError(
                f"{folder_of(run_dir, shard)}: has checkpoints; legal is a folder without any"
            )
    return [_made(settings, shard, complete[max(complete)], run_dir) for shard in shards]


def _made(
    settings: ParameterServerConfig, index: int, sources: Sequence[Sequence[Path]], run_dir: Path
) -> Made:
    shard = Shard(settings, index, rerouted(sources, index, len(settings.shards)))
    checkpoints = Checkpoints(
        folder_of(run_dir, index), kept=settings.checkpoints_kept, shards=len(settings.shards)
    )
    saved = checkpoints.save(shard)
    checkpoints.close()
    return Made(index, saved.path, saved.clock, shard.row_counts())
