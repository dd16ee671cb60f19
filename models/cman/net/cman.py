"""CMAN: three encoders and the fusion, and the two graphs' worth of it that are exported. Does no I/O.

The network runs once per side; the two sides of a patient are a batch of two.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from casework.modelspec import SLOTS
from models.cman.net.attention import AlignmentPrior, CrossBlock
from models.cman.net.config import MODALITIES, NetConfig
from models.cman.net.head import GatedPool
from models.cman.net.temporal import encoder_of
from models.cman.net.tokens import Tokeniser


class Fusion(nn.Module):
    """Token maps (B, V, d, g, g) and masks (B, V) per modality -> logit, evidence (B, 3), heat per modality.

    heat: (B, V, S/4, S/4), the contributions spread bilinearly over 4 x 4 pixels a token. Each token's weights add up
    to one (also at the border, where interpolation clamps), so an image's heat sums to its share of the logit.
    """

    def __init__(self, config: NetConfig) -> None:
        super().__init__()
        self.config = config
        self.tokeniser = Tokeniser(config)
        self.prior = AlignmentPrior(config)
        self.blocks = nn.ModuleList([CrossBlock(config, self.prior) for _ in range(config.blocks)])
        self.pool = GatedPool(config)

    def tokens(self, maps: dict[str, Tensor], masks: dict[str, Tensor]) -> dict[str, Tensor]:
        """Tokens (B, V * g * g, d) per modality, after the questions to the other modalities."""
        tokens = {m: self.tokeniser(m, maps[m], self.tokeniser.findings(m, maps[m])) for m in MODALITIES}
        for block in self.blocks:
            tokens = block(tokens, masks)
        return tokens

    def shares(self, tokens: dict[str, Tensor], maps: dict[str, Tensor], masks: dict[str, Tensor]) -> dict[str, Tensor]:
        """Contributions per modality, (B, V, g, g); all of them together sum to the logit."""
        grid = self.config.grid
        present = {m: masks[m][:, :, None].expand(-1, -1, grid**2).flatten(1) for m in MODALITIES}
        parts = {m: self.pool(m, tokens[m], self.tokeniser.findings(m, maps[m]), present[m]) for m in MODALITIES}
        return {m: part.reshape(-1, len(SLOTS[m]), grid, grid) for m, part in parts.items()}

    def contributions(self, maps: dict[str, Tensor], masks: dict[str, Tensor]) -> dict[str, Tensor]:
        """Contributions per modality from token maps and masks."""
        return self.shares(self.tokens(maps, masks), maps, masks)

    def forward(  # noqa: PLR0917  # an exported graph takes its inputs by position
        self, mg: Tensor, mr: Tensor, us: Tensor, mg_mask: Tensor, mr_mask: Tensor, us_mask: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Return logit (B,), evidence (B, 3) and the heat of MG, MR and US."""
        maps = dict(zip(MODALITIES, (mg, mr, us), strict=True))
        masks = dict(zip(MODALITIES, (mg_mask, mr_mask, us_mask), strict=True))
        parts = self.contributions(maps, masks)
        evidence = torch.stack([parts[m].sum((1, 2, 3)) for m in MODALITIES], 1)
        heat = [
            functional.interpolate(parts[m], scale_factor=4.0, mode="bilinear", align_corners=False) / 16.0
            for m in MODALITIES
        ]
        return evidence.sum(1), evidence, heat[0], heat[1], heat[2]


class Cman(nn.Module):
    """The whole network: images (B, V, C, S, S) and masks (B, V) per modality -> Fusion's outputs."""

    def __init__(self, config: NetConfig) -> None:
        super().__init__()
        self.config = config
        self.encoders = nn.ModuleDict({m: encoder_of(m, config) for m in MODALITIES})
        self.fusion = Fusion(config)

    def encode(self, modality: str, images: Tensor) -> Tensor:
        """Images (B, V, C, S, S) -> token maps (B, V, d, g, g)."""
        maps: Tensor = self.encoders[modality](images.flatten(0, 1))
        return maps.unflatten(0, images.shape[:2])

    def forward(
        self, images: dict[str, Tensor], masks: dict[str, Tensor]
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Encode every image and fuse."""
        maps = [self.encode(m, images[m]) for m in MODALITIES]
        return self.fusion(*maps, *(masks[m] for m in MODALITIES))  # type: ignore[no-any-return]  # nn.Module.__call__
