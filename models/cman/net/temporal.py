"""A temporal head over MRI phases: one convolutional trunk for every phase, then an LSTM over time at every token.

An MR image's channels are the pre-contrast phase and differences to it (modelspec.SLOTS: early and late; a preparation with
more phases gives more channels). The trunk sees each difference beside the pre-contrast image, so that it learns what
enhancement looks like once; the LSTM reads the sequence at each place and its last state is the token. Longer and shorter
sequences run through the same weights. The cell is written out step by step: it exports with any number of images.
Does no I/O.
"""

from dataclasses import replace

import torch
from torch import Tensor, nn

from models.cman.net.config import NetConfig
from models.cman.net.encoder import Encoder


class TemporalEncoder(nn.Module):
    """MR images (n, 1 + T, S, S), pre-contrast then T differences in time's order -> token maps (n, d, S/16, S/16)."""

    def __init__(self, config: NetConfig) -> None:
        super().__init__()
        self.trunk = Encoder("MR", replace(config, temporal=False), channels=2)
        self.cell = nn.LSTMCell(config.width, config.width)
        self.out = nn.Conv2d(config.width, config.width, 1)

    def forward(self, images: Tensor) -> Tensor:
        """See the class."""
        pre, *differences = images.split(1, 1)
        maps = [self.trunk(torch.cat([pre, d], 1)) for d in differences]
        n, d, high, wide = maps[0].shape
        state = maps[0].new_zeros(n * high * wide, d)
        memory = torch.zeros_like(state)
        for one in maps:
            state, memory = self.cell(one.permute(0, 2, 3, 1).reshape(-1, d), (state, memory))
        last: Tensor = self.out(state.reshape(-1, high, wide, d).permute(0, 3, 1, 2))
        return last + maps[-1]  # starts near the last phase's own map, and learns what the order adds


def encoder_of(modality: str, config: NetConfig) -> nn.Module:
    """The encoder of a modality as the configuration says."""
    if modality == "MR" and config.temporal:
        return TemporalEncoder(config)
    return Encoder(modality, config)
