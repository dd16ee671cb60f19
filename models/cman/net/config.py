"""The numbers that shape one CMAN. Does no I/O."""

from dataclasses import asdict, dataclass
from typing import Any

from casework.modelspec import CHANNELS, SLOTS

__all__ = ["CHANNELS", "CONCEPTS", "MODALITIES", "RESNET50", "STUDENT", "TINY", "NetConfig"]

MODALITIES = tuple(SLOTS)

CONCEPTS = ("lesion", "spiculation", "washout", "node", "cortex")
"""What the dense supervision names, per token: known of phantoms, read from every token by the fusion."""


@dataclass(frozen=True, slots=True)
class NetConfig:
    """Sizes of one network.

    input_size: pixels S of an image's side; tokens form a grid of S / 16.
    base, depths: ResNet widths start at `base` (64 in ResNet-50) and double; bottleneck blocks per stage.
    width: channels d of a token. key_pool: keys and values of the cross-attention are averaged over key_pool x key_pool
    tokens (queries are not), which makes attention key_pool^2 times cheaper.
    reduction: 0 = ResNet's bottleneck; else the student's unit (student.py) whose gates squeeze channels by this factor
    and whose spatial gate looks `dilation` pixels of its map away. temporal: MR phases go through one trunk and an LSTM
    over time (temporal.py) instead of lying side by side as channels.
    """

    input_size: int = 224
    base: int = 64
    depths: tuple[int, int, int, int] = (3, 4, 6, 3)
    width: int = 128
    heads: int = 4
    blocks: int = 2
    key_pool: int = 2
    reduction: int = 0
    dilation: int = 4
    temporal: bool = False

    @property
    def grid(self) -> int:
        """Tokens along one side of an image."""
        return self.input_size // 16

    def as_dict(self) -> dict[str, Any]:
        """For checkpoints and manifests."""
        return asdict(self)

    @staticmethod
    def from_dict(values: dict[str, Any]) -> "NetConfig":
        """Inverse of as_dict."""
        return NetConfig(**{**values, "depths": tuple(values["depths"])})


RESNET50 = NetConfig()
STUDENT = NetConfig(base=48, depths=(2, 2, 3, 1), blocks=1, reduction=16)
TINY = NetConfig(base=4, depths=(1, 1, 1, 1), width=32, heads=2, blocks=1)
