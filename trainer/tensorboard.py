"""A log of the metrics for TensorBoard, where it is installed; no other file knows it."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from trainer.errors import ExtraMissing
from trainer.evaluation import Quality

Watch = Callable[[int, Quality], None]


class TensorBoardLog:
    """Writes under `folder`.

    Raises:
        ExtraMissing: the package tensorboard is not installed.
    """

    def __init__(self, folder: Path) -> None:
        try:
            module = importlib.import_module("torch.utils.tensorboard")
        except ImportError as error:
            raise ExtraMissing(
                f"trainer.tensorboard: true, but {error}; legal is false, or to install the extra "
                "headwater[tensorboard]"
            ) from error
        self._writer = module.SummaryWriter(str(folder))

    def also(self, watch: Watch) -> Watch:
        """A watch that writes here what it hands on to `watch`."""

        def both(step: int, quality: Quality) -> None:
            self.write(step, quality)
            watch(step, quality)

        return both

    def write(self, step: int, quality: Quality) -> None:
        """Write each metric that is a number, as of `step`."""
        self._scalars("overall", quality.overall, step)
        if quality.window is not None:
            self._scalars("window", quality.window, step)
        for surface, summary in quality.surfaces.items():
            self._scalars(f"surface {surface}", summary, step)
        self._scalars("recent", {"user_grouped_auc": quality.grouped_auc}, step)

    def close(self) -> None:
        """Write what is left."""
        self._writer.close()

    def _scalars(self, span: str, summary: Mapping[str, Any], step: int) -> None:
        for name, by_task in summary.items():
            if isinstance(by_task, Mapping):
                for task, value in by_task.items():
                    if math.isfinite(value):
                        self._writer.add_scalar(f"{span}/{name}/{task}", value, step)
