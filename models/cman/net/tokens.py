"""Tokens: a side's token maps with the words that say which modality, which slot and where. Does no I/O."""

import math

import torch
from torch import Tensor, nn

from casework.modelspec import SLOTS
from models.cman.net.config import CONCEPTS, MODALITIES, NetConfig


def positions(grid: int) -> Tensor:
    """Centres of a grid's tokens, (grid * grid, 2) as (row, col) in -1..1."""
    axis = (torch.arange(grid) + 0.5) / grid * 2.0 - 1.0
    return torch.stack(torch.meshgrid(axis, axis, indexing="ij"), -1).reshape(-1, 2)


def waves(grid: int, width: int) -> Tensor:
    """Sine and cosine codes of the positions, (grid * grid, width): a quarter each for sin/cos of row and column."""
    rates = math.pi * 2.0 ** (torch.arange(width // 4) / (width / 4) * math.log2(grid))
    angles = positions(grid)[:, :, None] * rates
    return torch.cat([angles.sin(), angles.cos()], -1).reshape(grid * grid, -1)


class Tokeniser(nn.Module):
    """Token maps (B, V, d, g, g) of one modality -> tokens (B, V * g * g, d) with findings, modality, slot and position."""

    position: Tensor

    def __init__(self, config: NetConfig) -> None:
        super().__init__()
        self.register_buffer("position", waves(config.grid, config.width), persistent=False)
        self.place = nn.Linear(config.width, config.width)
        # What the encoder's dense supervision reads from a token becomes a word of its own: easy to attend to and to pool.
        self.concept = nn.ModuleDict({m: nn.Linear(config.width, len(CONCEPTS)) for m in MODALITIES})
        self.named = nn.ModuleDict({m: nn.Linear(len(CONCEPTS), config.width) for m in MODALITIES})
        self.norm = nn.ModuleDict({m: nn.LayerNorm(config.width) for m in MODALITIES})
        self.modality = nn.ParameterDict({m: nn.Parameter(0.02 * torch.randn(config.width)) for m in MODALITIES})
        self.slot = nn.ParameterDict(
            {m: nn.Parameter(0.02 * torch.randn(len(SLOTS[m]), 1, config.width)) for m in MODALITIES}
        )

    def findings(self, modality: str, maps: Tensor) -> Tensor:
        """What each token shows, (B, V * g * g, 5): lesion, spiculated lesion, lesion with washout, node, cortex there.

        Properties are read only inside what has them, so they count for nothing elsewhere.
        """
        logits = self.concept[modality](maps.flatten(3).transpose(2, 3).flatten(1, 2))
        lesion, spiculated, washout, node = logits[..., :4].sigmoid().unbind(-1)
        cortex = torch.clamp(2.0 * logits[..., 4], -4.0, 4.0)
        return torch.stack([lesion, lesion * spiculated, lesion * washout, node, node * cortex], -1)

    def forward(self, modality: str, maps: Tensor, findings: Tensor) -> Tensor:
        """See the class."""
        flat = maps.flatten(3).transpose(2, 3)  # (B, V, g*g, d)
        words = self.slot[modality] + self.place(self.position) + self.modality[modality]
        return (self.norm[modality](flat) + words).flatten(1, 2) + 3.0 * self.named[modality](findings)
