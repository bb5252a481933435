"""Everything that a trainer is at one moment, and its passage to and from a recovery point."""

from __future__ import annotations

import io
import pickle
from collections.abc import Mapping
from typing import Any

import msgspec
import torch

from models.retrieval.delta import StructureError
from schema.config import Config
from schema.records import F32
from trainer.baseline import LogOddsBaseline
from trainer.batches import RowBatch
from trainer.checkpoint import Counters, Image
from trainer.dedup import DuplicateFilter
from trainer.entries import Position
from trainer.errors import RecoveryError
from trainer.evaluation import Evaluation
from trainer.guard import Guard
from trainer.ranks import Ranks
from trainer.retrieval import Mark, SavedRetrieval
from trainer.rows import Rows
from trainer.step import Learner


class TrainerState:
    """What a recovery point keeps, and what training changes.

    Args:
        config: the whole configuration.
        learner: the model and its optimizer, which belong to the state.
        history: whether the samples come from a history that was never in the topic.
    """

    def __init__(self, config: Config, learner: Learner, *, history: bool = False) -> None:
        self._history = history
        self._topic = config.kafka.topics.training_samples.name
        self._learner = learner
        self.tasks = tuple(task.name for task in config.tasks)
        self.counters = Counters()
        self.positions: dict[int, Position] = {}
        self.duplicates = DuplicateFilter()
        trainer, zone = config.trainer, config.features.timezone_hours
        window = trainer.evaluation_window_seconds
        self.evaluation = Evaluation(self.tasks, window, zone, trainer.report_period)
        self.baseline = LogOddsBaseline(len(self.tasks)) if trainer.baseline else None
        self.guard = None if trainer.guard is None else Guard(trainer.guard, self.tasks)
        self.baseline_evaluation = Evaluation(self.tasks, 0, zone, trainer.report_period)

    def read(self, batch: RowBatch) -> None:
        """Count what `batch`, the next of those being read, has read: it is trained."""
        self.duplicates.trained()
        for run in batch.runs:
            self.positions[run.partition] = run.end
        self.counters.duplicates += batch.duplicates
        self.counters.dead_letters += len(batch.dead)

    def score(self, rows: Rows, predictions: F32) -> None:
        """Count `rows`, and their predictions (n, T), as trained."""
        labels, mask = rows.labels(), rows.newly_known()
        times = rows.each(rows.event_times())
        late = rows.late_rows()
        self.counters.rows += len(rows) - late
        self.counters.late_rows += late
        weights = rows.weights()
        self.evaluation.update(predictions, labels, mask, times, weights)
        surfaces = rows.each(rows.surfaces())
        self.evaluation.update_surfaces(predictions, labels, mask, surfaces, weights)
        users = rows.each(rows.users())
        self.evaluation.by_user.update(predictions, labels, mask, weights, users)
        if self.guard is not None:
            self.guard.update(predictions, labels, mask, weights)
        if self.baseline is not None:
            keys = (rows.items(), users, surfaces)
            scores = self.baseline.score_and_count(keys, labels, mask, weights)
            self.baseline_evaluation.update(scores, labels, mask, times, weights)

    def report(self) -> dict[str, Any]:
        """Counters, losses and metrics."""
        counters = self.counters
        return {
            "step": counters.step,
            "samples_trained": counters.rows,
            "late_positives": counters.late_rows,
            "duplicates_dropped": counters.duplicates,
            "dead_letters": counters.dead_letters,
            "refused_rows": counters.refused_rows,
            "restarts_recovered": counters.replayed_steps,
            "tasks": self.tasks,
            "guard": None
            if self.guard is None
            else {"breach": self.guard.breach, "drifts": self.guard.alarms},
            "retrieval": None if self._learner.retrieval is None else self._learner.retrieval.report(),
            **self.evaluation.report(),
            "user_auc": self.evaluation.by_user.report(),
            "baseline": None if self.baseline is None else self._baseline_report(),
        }

    def _baseline_report(self) -> Mapping[str, Any]:
        report = self.baseline_evaluation.report()
        return {"overall": report["overall"], "period": report["period"]}

    def mark(self) -> Mark | None:
        """Now, for `image` later; None where it would always be of all."""
        retrieval = self._learner.retrieval
        return None if retrieval is None else retrieval.mark()

    def image(self, since: Mark | None = None) -> Image:
        """All of it; of single items only what changed since `since`, if given."""
        baseline, retrieval = self.baseline, self._learner.retrieval
        return Image(
            self._topic,
            self.tasks,
            msgspec.structs.replace(self.counters),
            dict(self.positions),
            self.duplicates.state(),
            self._torch(),
            self.evaluation.state(),
            None if baseline is None else (baseline.state(), self.baseline_evaluation.state()),
            None if self.guard is None else self.guard.state(),
            self._history,
            None if retrieval is None else retrieval.saved(since),
            self.evaluation.by_user.saved(),
        )

    def restore(self, image: Image) -> None:
        """Become what `image` is.

        Raises:
            RecoveryError: it is of another topic, other tasks or another model than the configuration's.
        """
        for name, have, want in (("topic", image.topic, self._topic), ("tasks", image.tasks, self.tasks)):
            if have != want:
                raise _misfit(f"{name}: {have!r} in the recovery point; configured is {want!r}")
        self._restore_torch(image.torch, image.retrieval)
        self.counters = image.counters
        # places in the one say nothing of the other; the filter of duplicates knows what both have
        self.positions = dict(image.positions) if image.history == self._history else {}
        self.duplicates.restore(image.duplicates)
        self.evaluation.restore(image.evaluation)
        if self.baseline is not None and image.baseline is not None:
            self.baseline.restore(image.baseline[0])
            self.baseline_evaluation.restore(image.baseline[1])
        if self.guard is not None and image.guard is not None:
            self.guard.restore(image.guard)
        if image.by_user is not None:
            self.evaluation.by_user.restore(image.by_user)

    def share_dense(self, ranks: Ranks) -> None:
        """Have the dense parameters of rank 0, and its optimizer's state."""
        if ranks.size > 1:
            self._restore_torch(ranks.share(self._torch()))

    def _torch(self) -> bytes:
        blob = io.BytesIO()
        learner = self._learner
        torch.save(
            {
                "model": learner.model.state_dict(),
                "optimizer": learner.optimizer.state_dict(),
                "random": torch.get_rng_state(),
            },
            blob,
        )
        return blob.getvalue()

    def _restore_torch(self, blob: bytes, retrieval: SavedRetrieval | None = None) -> None:
        try:
            saved = torch.load(io.BytesIO(blob), map_location="cpu", weights_only=True)
            self._learner.model.load_state_dict(saved["model"])
            self._learner.optimizer.load_state_dict(saved["optimizer"])
            if self._learner.retrieval is not None and retrieval is not None:
                self._learner.retrieval.restore(retrieval)
            torch.set_rng_state(saved["random"])
        except (StructureError, RuntimeError, ValueError, KeyError, pickle.UnpicklingError) as error:
            raise _misfit(f"model: {error}") from error


def _misfit(what: str) -> RecoveryError:
    return RecoveryError(
        f"the recovery state does not fit the configuration: {what}; legal is the configuration it was made "
        "with, or another run_dir"
    )
