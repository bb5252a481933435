"""Which checkpoints a shard starts from: its own, or those of another number of shards, routed anew.

Knows the folders of a deployment, RUN_DIR/shard-I, and that a `generation` is one number of shards in use.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np

from parameter_server import checkpoint
from parameter_server.checkpoint import Checkpoints, Manifest
from parameter_server.dense import DenseVersion
from parameter_server.errors import CheckpointError
from parameter_server.image import Marks, ShardImage
from parameter_server.router import shard_of
from parameter_server.shard import Shard
from parameter_server.sweep import Part
from schema.config import ParameterServerConfig
from schema.records import U8, U64

_log = logging.getLogger(__name__)

_SHARD: Final = "shard-"


class Opened(NamedTuple):
    """A shard and what writes its checkpoints; whether it came from another number of shards."""

    shard: Shard
    checkpoints: Checkpoints
    rerouted: bool


def folder_of(run_dir: Path, index: int) -> Path:
    """Where the checkpoints of shard `index` lie."""
    return run_dir / f"{_SHARD}{index}"


def open_shard(settings: ParameterServerConfig, index: int, run_dir: Path) -> Opened:
    """Shard `index` as the newest whole checkpoint has it; empty where there has never been one.

    Raises:
        CheckpointError: there are checkpoints, but none can be read, or those of other shards are needed and
            are not there.
    """
    shards = len(settings.shards)
    own = folder_of(run_dir, index)
    mine = [(path, m) for path, m in _readable(own) if (m.shard, m.shards) == (index, shards)]
    own_generation = max((m.generation for _, m in mine), default=-1)
    complete = {g: paths for g, paths in _generations(run_dir).items() if g > own_generation}
    if complete:
        generation = max(complete)
        image = rerouted(complete[generation], index, shards)
        _log.info("shard %d of %d starts from %d other shards", index, shards, len(complete[generation]))
        shard = Shard(settings, index, image)
        return Opened(shard, _writer(settings, own, generation + 1, None), rerouted=True)
    if mine:
        paths = [path for path, m in mine if m.generation == own_generation]
        shard, base = first_whole(settings, index, paths)
        return Opened(shard, _writer(settings, own, own_generation, base), rerouted=False)
    _refuse_strangers(own, index, shards)
    return Opened(Shard(settings, index), _writer(settings, own, 0, None), rerouted=False)


def _writer(settings: ParameterServerConfig, own: Path, generation: int, base: Path | None) -> Checkpoints:
    return Checkpoints(
        own,
        kept=settings.checkpoints_kept,
        shards=len(settings.shards),
        generation=generation,
        base=base,
    )


def _refuse_strangers(own: Path, index: int, shards: int) -> None:
    """Start empty only where nothing was ever saved."""
    paths = checkpoint.found(own)
    if not paths:
        return
    manifest = checkpoint.manifest_of(paths[0])
    raise CheckpointError(
        f"{paths[0]}: of shard {manifest.shard} of {manifest.shards}; this is shard {index} of {shards}, and "
        f"the folders of all {manifest.shards} are not beside it: `scripts/ps restore` takes them"
    )


def _readable(folder: Path) -> list[tuple[Path, Manifest]]:
    """The checkpoints of `folder` whose manifests can be read, the newest first."""
    readable = []
    for path in checkpoint.found(folder):
        try:
            readable.append((path, checkpoint.manifest_of(path)))
        except CheckpointError as error:
            _log.warning("checkpoint skipped: %s", error)
    return readable


def _generations(run_dir: Path) -> dict[int, list[list[Path]]]:
    """By generation, for each of its shards its checkpoints, where every shard has some."""
    return complete_sets(sorted(run_dir.glob(_SHARD + "*")))


def complete_sets(folders: Iterable[Path]) -> dict[int, list[list[Path]]]:
    """By generation, for each of its shards, in order, its checkpoints in `folders`, the newest first."""
    by_generation: dict[int, dict[int, list[Path]]] = {}
    counts: dict[int, int] = {}
    for folder in folders:
        for path, manifest in _readable(folder):
            counts[manifest.generation] = manifest.shards
            by_generation.setdefault(manifest.generation, {}).setdefault(manifest.shard, []).append(path)
    return {
        generation: [paths[shard] for shard in range(counts[generation])]
        for generation, paths in by_generation.items()
        if len(paths) == counts[generation]
    }


def first_whole(settings: ParameterServerConfig, index: int, paths: Sequence[Path]) -> tuple[Shard, Path]:
    """The shard in the first of `paths` that can be read, and which that is.

    Raises:
        CheckpointError: none can; of the first.
    """
    problem: CheckpointError | None = None
    for path in paths:
        try:
            return Shard(settings, index, checkpoint.load(path)), path
        except CheckpointError as error:
            _log.warning("checkpoint skipped: %s", error)
            problem = problem or error
    raise problem or CheckpointError(f"shard {index}: no checkpoint")


def rerouted(sources: Sequence[Sequence[Path]], index: int, shards: int) -> ShardImage:
    """What shard `index` of `shards` is, of the newest whole checkpoint of each of `sources`.

    A trainer's step counts as had where any source has it: what only some have is lost, not applied twice.

    Raises:
        CheckpointError: a source has no whole checkpoint, or they are of different optimizers.
    """
    images = [checkpoint.load(_whole(paths)) for paths in sources]
    optimizers = images[0].optimizers
    if any(image.optimizers != optimizers for image in images):
        raise CheckpointError(
            "optimizers: the checkpoints differ in them; legal are those of one configuration"
        )
    steps: dict[str, int] = {}
    dense: dict[str, DenseVersion] = {}
    for marks in (image.marks for image in images):
        for trainer, step in marks.steps.items():
            steps[trainer] = max(step, steps.get(trainer, -1))
        _keep_newest(dense, marks.dense)
    if any(dict(image.marks.steps) != steps for image in images):
        _log.warning("the shards' checkpoints are of different steps: what only some of them have is lost")
    clock = max(image.marks.clock for image in images)
    parts = (part for image in images for part in _routed(image.parts, index, shards))
    candidates = _routed_candidates([image.marks.candidates for image in images], index, shards)
    marks = Marks(clock, steps, dense if index == 0 else {}, candidates)
    return ShardImage(marks, parts, optimizers=optimizers)


def _routed_candidates(
    sources: Sequence[Mapping[str, tuple[U64, U8]]], index: int, shards: int
) -> dict[str, tuple[U64, U8]]:
    merged = {}
    for name in dict.fromkeys(name for source in sources for name in source):
        ids = np.concatenate([source[name][0] for source in sources if name in source])
        counts = np.concatenate([source[name][1] for source in sources if name in source])
        mine = np.flatnonzero(shard_of(ids, shards) == index)
        merged[name] = ids[mine], counts[mine]
    return merged


def _keep_newest(dense: dict[str, DenseVersion], others: Mapping[str, DenseVersion]) -> None:
    for name, value in others.items():
        if name not in dense or dense[name].version < value.version:
            dense[name] = value


def _whole(paths: Sequence[Path]) -> Path:
    problem: CheckpointError | None = None
    for path in paths:
        try:
            for _ in checkpoint.load(path).parts:
                pass
        except CheckpointError as error:
            _log.warning("checkpoint skipped: %s", error)
            problem = problem or error
        else:
            return path
    raise problem or CheckpointError("no checkpoint")


def _routed(parts: Iterable[Part], index: int, shards: int) -> Iterator[Part]:
    for part in parts:
        rows = np.flatnonzero(shard_of(part.columns["ids"], shards) == index)
        removed = part.removed[shard_of(part.removed, shards) == index]
        yield Part(part.table, removed, {name: values[rows] for name, values in part.columns.items()})


def retire(run_dir: Path, index: int, checkpoints: Checkpoints, shards: int) -> None:
    """Once every shard of this generation has a checkpoint, drop those of earlier ones from its folder.

    Shard 0 does so for the folders that are no shard's any more.
    """
    if checkpoints.generation == 0 or checkpoints.generation not in _generations(run_dir):
        return
    folders = [folder_of(run_dir, index)]
    if index == 0:
        current = {folder_of(run_dir, shard) for shard in range(shards)}
        folders += [folder for folder in run_dir.glob(_SHARD + "*") if folder not in current]
    for folder in folders:
        for path, manifest in _readable(folder):
            if manifest.generation < checkpoints.generation:
                checkpoint.drop(path)
