"""JPEG 2000 frames by nvImageCodec, where they are the CPU decoder's bit for bit. Runs only in the decode child. Owns nvimgcodec.

It is given grey, unsigned, reversible (5-3) streams at full resolution. Not irreversible ones, whose rounding differs
from decoder to decoder; and not what is decoded smaller, which its Python interface (0.9) can't: so most mammograms stay with the CPU.
Before it gets anything it decodes samples of 8 to 16 bits, and whatever it fails at is decoded by the CPU: it is `lost` from
then on, which the worker reads with every answer.
"""

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from pydicom import uid

from casework.preprocess.codestream import Stated

LOST = ("library", "device", "pixels", "frame")
"""Why a decoder isn't used (any more): not installed, can't be opened here, its samples differ, it failed at a frame."""
_LOSSLESS = frozenset({uid.JPEG2000Lossless})
_SAMPLE_BITS = range(8, 17)


class Frames(Protocol):
    """Decodes one codestream to (h, w); what it raises or a None means that it can't."""

    def __call__(self, stream: bytes) -> NDArray[np.generic] | None:
        """Decode."""


@dataclass
class Beside:
    """The decoder beside the CPU's; one for each child."""

    name: str = "cpu"
    lost: str = ""
    frames: int = 0
    _decode: Frames | None = None

    def begin(self, kind: str, device: int) -> None:
        """Open the decoder of this kind (config_engine.DECODERS) and examine it."""
        if kind == "cpu":
            return
        try:
            opened = open_decoder(kind, device)
        except ImportError:
            self.lost = "library"
        except Exception:  # noqa: BLE001 - a foreign library: whatever it raises, the CPU decodes
            self.lost = "device"
        else:
            self.examine(kind, opened)

    def examine(self, kind: str, opened: Frames) -> None:
        """Use it if it gives each sample back as it was."""
        for bits in _SAMPLE_BITS:
            array, stream = sample(bits)
            made = _tried(opened, stream)
            if made is None or made.dtype != array.dtype or not np.array_equal(made, array):
                self.lost = "pixels"
                return
        self.name, self._decode = kind, opened

    def frame(self, stream: bytes, stated: Stated, syntax: str) -> NDArray[np.generic] | None:
        """The frame, or None: the CPU has to decode it."""
        wanted = syntax in _LOSSLESS and stated.reversible and not stated.signed and stated.precision >= 8
        if self._decode is None or not wanted:
            return None
        made = _tried(self._decode, stream)
        usual = np.uint8 if stated.precision <= 8 else np.uint16
        if made is None or made.dtype != usual or made.shape != (stated.rows, stated.columns):
            self._decode, self.lost = None, "frame"
            return None
        self.frames += 1
        return made


CURRENT = Beside()


def _tried(decode: Frames, stream: bytes) -> NDArray[np.generic] | None:
    try:
        return decode(stream)
    except MemoryError:
        raise
    except Exception:  # noqa: BLE001 - as above; a broken stream is then refused by the CPU's decoder, in its own words
        return None


def sample(bits: int) -> tuple[NDArray[np.generic], bytes]:
    """An image with every kind of edge, and its reversible codestream by OpenJPEG."""
    from openjpeg.utils import encode_array

    steps = np.random.default_rng(bits).integers(0, 1 << bits, (75, 61))
    ramp = np.add.outer(np.arange(75), np.arange(61)) * ((1 << bits) - 1) // 134
    array = np.where(np.add.outer(np.arange(75) // 15, np.arange(61) // 15) % 2, steps, ramp)
    array = array.astype(np.uint8 if bits <= 8 else np.uint16)
    return array, bytes(encode_array(array, bits_stored=bits, photometric_interpretation=2))


def open_decoder(kind: str, device: int) -> Frames:
    """Open nvImageCodec on a GPU ("nvimgcodec"), or its own CPU decoders ("nvimgcodec-cpu"), which need none.

    Raises:
        ImportError: it is not installed.
        RuntimeError: there is no driver or device.
    """
    from nvidia import nvimgcodec as nv

    chosen: dict[str, Any] = {"device_id": device}
    if kind == "nvimgcodec-cpu":
        chosen = {"device_id": nv.NVIMGCODEC_DEVICE_CPU_ONLY, "backends": [nv.Backend(nv.BackendKind.CPU_ONLY)]}
    decoder = nv.Decoder(max_num_cpu_threads=1, **chosen)
    as_stored = nv.DecodeParams(
        apply_exif_orientation=False,
        allow_any_depth=True,
        color_spec=nv.ColorSpec.UNCHANGED,
        sample_format=nv.SampleFormat.I_UNCHANGED,
    )

    def frame(stream: bytes) -> NDArray[np.generic] | None:
        image = decoder.decode(nv.CodeStream(stream), params=as_stored)
        if image is None:
            return None
        pixels: NDArray[np.generic] = np.asarray(image.cpu())
        return np.ascontiguousarray(pixels[..., 0]) if pixels.ndim == 3 and pixels.shape[-1] == 1 else None

    return frame
