"""The baselines: other ways to get from the same tokens to one logit per side. Does no I/O.

Every head gets the same token maps of the same frozen encoders with the same readings of the concepts; what differs is
only how modalities are brought together. forward(maps, masks) -> logit (B,).
"""

import torch
from torch import Tensor, nn

from casework.modelspec import SLOTS
from models.cman.net.cman import Fusion
from models.cman.net.config import CONCEPTS, MODALITIES, NetConfig
from models.cman.net.tokens import Tokeniser

READ = len(CONCEPTS)


class Single(nn.Module):
    """One modality alone: the tokens' gated attention pool without any question to another modality."""

    def __init__(self, config: NetConfig, modality: str) -> None:
        super().__init__()
        self.modality = modality
        self.fusion = Fusion(config)

    def forward(self, maps: dict[str, Tensor], masks: dict[str, Tensor]) -> Tensor:
        """See the module."""
        m, fusion = self.modality, self.fusion
        findings = fusion.tokeniser.findings(m, maps[m])
        present = masks[m].repeat_interleave(fusion.config.grid**2, 1)
        share: Tensor = fusion.pool(m, fusion.tokeniser(m, maps[m], findings), findings, present)
        return share.sum(1)


class AttentionPool(nn.Module):
    """Tokens (B, T, d), findings (B, T, 5), presence (B, T) -> vectors (B, d + 10): attended, and the largest finding."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.score = nn.Sequential(nn.Linear(width, width // 2), nn.Tanh(), nn.Linear(width // 2, 1))
        self.score_of = nn.Parameter(torch.tensor([6.0, 2.0, 2.0, 6.0, 0.0]))

    def forward(self, tokens: Tensor, findings: Tensor, present: Tensor) -> Tensor:
        """See the class. Without any image the vector is 0."""
        h = self.norm(tokens)
        score = self.score(h)[..., 0] + findings @ self.score_of + (1.0 - present) * -1e4
        weight = torch.softmax(score, -1) * present
        seen = (findings * present[..., None]).amax(1)
        rich = torch.cat([h, findings], -1)
        return torch.cat([(weight[..., None] * rich).sum(1), seen], -1)


def _mlp(inputs: int, width: int = 256) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, width), nn.GELU(), nn.Dropout(0.2), nn.Linear(width, 1))


class Concat(nn.Module):
    """Feature concatenation: each modality pooled to one vector, vectors side by side into a small network."""

    def __init__(self, config: NetConfig) -> None:
        super().__init__()
        self.tokeniser = Tokeniser(config)
        self.pools = nn.ModuleDict({m: AttentionPool(config.width) for m in MODALITIES})
        self.mlp = _mlp(len(MODALITIES) * (config.width + 2 * READ + 1))

    def vector(self, maps: dict[str, Tensor], masks: dict[str, Tensor]) -> Tensor:
        """What is concatenated, (B, 3 * (d + 11))."""
        parts = []
        for m in MODALITIES:
            findings = self.tokeniser.findings(m, maps[m])
            present = masks[m].repeat_interleave(maps[m].shape[-1] ** 2, 1)
            parts += [self.pools[m](self.tokeniser(m, maps[m], findings), findings, present)]
            parts += [masks[m].amax(1, keepdim=True)]
        return torch.cat(parts, 1)

    def forward(self, maps: dict[str, Tensor], masks: dict[str, Tensor]) -> Tensor:
        """See the module."""
        logit: Tensor = self.mlp(self.vector(maps, masks))
        return logit[:, 0]


STACKS: dict[str, tuple[tuple[str, str], ...]] = {
    "axial": (("MG", "CC"), ("MR", "AX"), ("MR", "AX_SUP"), ("MR", "AX_INF")),
    "sagittal": (("MG", "MLO"), ("MR", "SAG")),
    "us": (("US", "1"), ("US", "2"), ("US", "3")),
}


def turned(axial: Tensor) -> Tensor:
    """An axial projection (..., anterior-posterior, lateral-medial) as the CC lies: (lateral-medial, posterior-anterior)."""
    return axial.transpose(-1, -2).flip(-1)


class EarlyMaps(nn.Module):
    """Early fusion of maps: images of one plane, turned alike, stacked as channels, then 3 x 3 convolutions.

    Each stack sees every image of its plane at the same place, so what lies within three tokens of each other can be
    matched by convolution; nothing is asked across planes.
    """

    def __init__(self, config: NetConfig, width: int = 128) -> None:
        super().__init__()
        self.config = config
        self.tokeniser = Tokeniser(config)
        self.convs = nn.ModuleDict()
        for name, images in STACKS.items():
            inputs = len(images) * (config.width + READ + 1)
            layers: list[nn.Module] = [nn.Conv2d(inputs, width, 1), nn.GroupNorm(8, width), nn.GELU()]
            for _ in range(3):
                layers += [nn.Conv2d(width, width, 3, 1, 1), nn.GroupNorm(8, width), nn.GELU()]
            self.convs[name] = nn.Sequential(*layers)
        self.pools = nn.ModuleDict({n: AttentionPool(width) for n in STACKS})
        self.read = nn.Conv2d(width, READ, 1)
        self.mlp = _mlp(len(STACKS) * (width + 2 * READ))

    def forward(self, maps: dict[str, Tensor], masks: dict[str, Tensor]) -> Tensor:
        """See the module."""
        return self.dense(maps, masks)[0]

    def dense(self, maps: dict[str, Tensor], masks: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Logit (B,) and per stack the concepts' logits (B, 5, g, g), for the auxiliary task that CMAN has too."""
        grid = self.config.grid
        parts: list[Tensor] = []
        read = {}
        for name, images in STACKS.items():
            planes, findings = [], []
            for m, slot in images:
                n = SLOTS[m].index(slot)
                here = masks[m][:, n, None, None, None]
                seen = self.tokeniser.findings(m, maps[m][:, n : n + 1]).transpose(1, 2).unflatten(2, (grid, grid))
                plane = torch.cat([maps[m][:, n], seen], 1) * here
                turn = turned if slot.startswith("AX") else torch.clone
                planes += [turn(plane), here.expand(-1, 1, grid, grid)]
                findings.append(turn(seen * here))
            mixed = self.convs[name](torch.cat(planes, 1))
            largest = torch.stack(findings, 1).amax(1).flatten(2).transpose(1, 2)
            tokens = mixed.flatten(2).transpose(1, 2)
            parts.append(self.pools[name](tokens, largest, torch.ones_like(largest[..., 0])))
            read[name] = self.read(mixed)
        return self.mlp(torch.cat(parts, 1))[:, 0], read
