"""ResNet-50 as an image encoder (He et al. 2015, bottlenecks with the stride on the 3x3), down to a token map.

The student has the same four stages of other units (student.py).

Stage 3 (stride 16) and the upsampled stage 4 (stride 32) are projected and added, so that the map keeps 14 x 14
positions at 224 px with the deep stage's context. Fully convolutional: any S that is a multiple of 32. Does no I/O.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.cman.net.config import CHANNELS, NetConfig
from models.cman.net.student import AttentiveBottleneck


class Bottleneck(nn.Module):
    """1x1 reduce, 3x3, 1x1 expand (x4), with the residual; (n, i, h, w) -> (n, 4 o, h / stride, w / stride)."""

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        outputs = 4 * width
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.short: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.short = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        y = functional.relu(self.bn1(self.conv1(x)))
        y = functional.relu(self.bn2(self.conv2(y)))
        return functional.relu(self.bn3(self.conv3(y)) + self.short(x))


def _stage(config: NetConfig, inputs: int, width: int, depth: int, stride: int) -> nn.Sequential:
    blocks: list[nn.Module] = []
    for n in range(depth):
        shape = (inputs, width, stride) if n == 0 else (4 * width, width, 1)
        if config.reduction:
            blocks.append(AttentiveBottleneck(*shape, reduction=config.reduction, dilation=config.dilation))
        else:
            blocks.append(Bottleneck(*shape))
    return nn.Sequential(*blocks)


class Encoder(nn.Module):
    """Images of one modality (n, C, S, S) in 0..1 -> token maps (n, d, S/16, S/16)."""

    def __init__(self, modality: str, config: NetConfig, channels: int = 0) -> None:
        """channels: of the images, where they aren't the modality's own."""
        super().__init__()
        base = config.base
        self.stem = nn.Conv2d(channels or CHANNELS[modality], base, 7, 2, 3, bias=False)
        self.bn = nn.BatchNorm2d(base)
        self.stage1 = _stage(config, base, base, config.depths[0], 1)
        self.stage2 = _stage(config, 4 * base, 2 * base, config.depths[1], 2)
        self.stage3 = _stage(config, 8 * base, 4 * base, config.depths[2], 2)
        self.stage4 = _stage(config, 16 * base, 8 * base, config.depths[3], 2)
        self.fine = nn.Conv2d(16 * base, config.width, 1)
        self.deep = nn.Conv2d(32 * base, config.width, 1)
        self._start()

    def _start(self) -> None:
        """Kaiming weights, and each block begins as the identity (Goyal et al. 2017: the last gamma is zero)."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        for module in self.modules():
            if isinstance(module, Bottleneck):
                nn.init.zeros_(module.bn3.weight)

    def forward(self, images: Tensor) -> Tensor:
        """See the class."""
        x = functional.relu(self.bn(self.stem(2.0 * images - 1.0)))
        x = functional.max_pool2d(x, 3, 2, 1)
        fine = self.stage3(self.stage2(self.stage1(x)))
        deep = self.deep(self.stage4(fine))
        return torch.add(self.fine(fine), functional.interpolate(deep, scale_factor=2.0, mode="nearest"))
