"""The student's residual unit: channel and spatial attention side by side, and a residual scale that starts at one half.

    H(x) = W_s x + gamma * F(x) * (CA(F(x)) + SA(F(x)))

F is ResNet's bottleneck. CA: global average, a reduction by r, one gate per channel (Hu et al. 2018). SA: reduction by r,
dilated 3 x 3 convolutions, one gate per place (Park et al. 2018, BAM). gamma: one learnable number per channel. The
second seed names these parts and leaves their combination open; the gates are added, as the two ask different things
and neither should close what the other opens. Does no I/O.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

START = 0.5


class ParallelAttention(nn.Module):
    """Gates 0..2 for maps (n, c, h, w): the sum of one gate per channel and one per place."""

    def __init__(self, channels: int, reduction: int, dilation: int) -> None:
        super().__init__()
        small = max(8, channels // reduction)
        self.squeeze = nn.Conv2d(channels, small, 1)
        self.excite = nn.Conv2d(small, channels, 1)
        self.reduce = nn.Conv2d(channels, small, 1, bias=False)
        self.bn = nn.BatchNorm2d(small)
        self.dilated = nn.Conv2d(small, small, 3, 1, dilation, dilation)
        self.place = nn.Conv2d(small, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        channel = self.excite(functional.relu(self.squeeze(x.mean((2, 3), keepdim=True))))
        place = self.place(functional.relu(self.dilated(functional.relu(self.bn(self.reduce(x))))))
        return torch.sigmoid(channel) + torch.sigmoid(place)


class AttentiveBottleneck(nn.Module):
    """(n, i, h, w) -> (n, 4 o, h / stride, w / stride); see the module."""

    def __init__(self, inputs: int, width: int, stride: int, *, reduction: int, dilation: int) -> None:
        super().__init__()
        outputs = 4 * width
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.attention = ParallelAttention(outputs, reduction, dilation)
        self.gamma = nn.Parameter(torch.full((1, outputs, 1, 1), START))
        self.short: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.short = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        y = functional.relu(self.bn1(self.conv1(x)))
        y = functional.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return functional.relu(self.gamma * y * self.attention(y) + self.short(x))
