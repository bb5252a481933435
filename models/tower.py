"""The shallow tower of position and surface (Zhao et al., "What Video to Watch Next", RecSys 2019).

It adds to the logits what an impression gains by where it was shown, so that the rest of the network learns
what it is worth wherever it is shown. An unknown position gains nothing: that is what serving asks for.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.batch import Batch
from schema.config import PositionConfig
from schema.records import POSITION_MISSING


class PositionTower(nn.Module):
    """A gain in logits for each task: of the position, of the surface's own use of it, zero where unknown."""

    def __init__(self, config: PositionConfig, tasks: int) -> None:
        super().__init__()
        self._config = config
        self.everywhere = nn.Embedding(config.positions, tasks)
        self.on_surface = nn.Embedding(config.positions * config.surfaces, tasks)
        nn.init.zeros_(self.everywhere.weight)
        nn.init.zeros_(self.on_surface.weight)

    def forward(self, batch: Batch, noise: torch.Generator | None = None) -> Tensor:
        """Gains (n, tasks); `noise` draws the rows whose position is taken away."""
        known = batch.positions != POSITION_MISSING
        if noise is not None:
            drawn = torch.rand(len(known), generator=noise) >= self._config.dropout
            known = known & drawn.to(known.device)
        position = batch.positions.clamp(max=self._config.positions - 1)
        surface = batch.surfaces.clamp(max=self._config.surfaces - 1)[batch.request_of_row]
        gain = self.everywhere(position) + self.on_surface(surface * self._config.positions + position)
        out: Tensor = gain * known.unsqueeze(1)
        return out
