"""The decoder beside the CPU's: the same pixels or none, and loud when it can't be used. nvImageCodec is real, on its CPU back end."""

from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread, uid

from casework.config_engine import Engine, check_engine
from casework.errors import Defect
from casework.observe import DECODER_PASSED_OVER
from casework.preprocess import nvimg
from casework.preprocess.child import ChildLimits, DecodeChild
from tests.analyse.dicoms import smooth, write

KIND = "nvimgcodec-cpu"


def frames_of(child: DecodeChild, path: Path) -> bytes:
    return child.call({"do": "slice", "path": str(path)}, 60).payload


def said(child: DecodeChild) -> tuple[str, int]:
    head = child.call({"do": "decoder"}, 60).head
    return head["decoder"], head["frames"]


def may_be_lossy(path: Path) -> Path:
    """The same stream under the transfer syntax that promises nothing."""
    ds = dcmread(path)
    ds.file_meta.TransferSyntaxUID = uid.JPEG2000
    ds.save_as(path)
    return path


def passed_over(kind: str) -> float:
    return sum(DECODER_PASSED_OVER.labels(kind, why)._value.get() for why in nvimg.LOST)


def test_its_pixels_are_the_cpus_bit_for_bit(tmp_path: Path) -> None:
    """Lossless JPEG 2000 of 8 to 16 bits goes to it and comes back as by the CPU; what may be lossy, is signed, high-throughput or plain doesn't go."""
    theirs, ours = DecodeChild(ChildLimits(decoder=KIND)), DecodeChild(ChildLimits())
    try:
        for n, bits in enumerate((8, 12, 16), 1):
            image = smooth(211, 173, (1 << bits) - 1).astype(np.uint8 if bits == 8 else np.uint16)
            path = write(tmp_path / f"{bits}.dcm", image, uid.JPEG2000Lossless, bits=bits)
            assert frames_of(theirs, path) == frames_of(ours, path)
            assert said(theirs) == (KIND, n)
        others = [
            may_be_lossy(write(tmp_path / "lossy.dcm", smooth(96, 96), uid.JPEG2000Lossless, bits=12)),
            write(tmp_path / "signed.dcm", smooth(96, 96).astype(np.int16) - 2000, uid.JPEG2000Lossless, bits=12),
            write(tmp_path / "high.dcm", smooth(96, 96), uid.HTJ2KLossless, bits=12),
            write(tmp_path / "plain.dcm", smooth(96, 96), uid.ExplicitVRLittleEndian, bits=12),
        ]
        assert [frames_of(theirs, path) == frames_of(ours, path) for path in others] == [True] * 4
        assert said(theirs) == (KIND, 3)
        assert said(ours) == ("cpu", 0)
    finally:
        theirs.close()
        ours.close()


def test_without_a_gpu_the_cpu_decodes_and_says_so(tmp_path: Path) -> None:
    """The same pixels, a log line and a count, once for the child; never a failed case."""
    path = write(tmp_path / "a.dcm", smooth(64, 48), uid.JPEG2000Lossless, bits=12)
    before = passed_over("nvimgcodec")
    gpu, ours = DecodeChild(ChildLimits(decoder="nvimgcodec")), DecodeChild(ChildLimits())
    try:
        assert said(gpu) == ("cpu", 0)
        assert frames_of(gpu, path) == frames_of(ours, path)
    finally:
        gpu.close()
        ours.close()
    assert passed_over("nvimgcodec") == before + 1


def test_one_that_gives_other_pixels_is_not_used() -> None:
    """One bit of one sample is enough; so is an answer of another type, or none."""
    true = nvimg.open_decoder(KIND, 0)

    def bent(stream: bytes) -> "np.ndarray | None":
        made = true(stream)
        assert made is not None
        made = made.copy()
        made[40, 30] ^= 1
        return made

    for wrong in (bent, lambda stream: np.asarray(true(stream), np.int32), lambda _: None):
        beside = nvimg.Beside()
        beside.examine(KIND, wrong)
        assert (beside.name, beside.lost) == ("cpu", "pixels")
    beside = nvimg.Beside()
    beside.examine(KIND, true)
    assert (beside.name, beside.lost) == (KIND, "")


def test_one_that_fails_at_a_frame_is_given_no_other() -> None:
    """The CPU decodes that frame and all later ones of this child."""
    array, stream = nvimg.sample(12)
    stated = nvimg.Stated(array.shape[0], array.shape[1], 1, 12, reversible=True)
    answers = iter([array])
    beside = nvimg.Beside(KIND, _decode=lambda _: next(answers))
    assert np.array_equal(beside.frame(stream, stated, uid.JPEG2000Lossless), array)  # type: ignore[arg-type]
    assert beside.frame(stream, stated, uid.JPEG2000Lossless) is None
    assert (beside.lost, beside.frames) == ("frame", 1)
    assert beside.frame(stream, stated, uid.JPEG2000Lossless) is None


@pytest.mark.parametrize("engine", [Engine(decoder="gpu"), Engine(decoder="nvimgcodec")])
def test_a_decoder_that_could_not_be_is_refused_at_load(engine: Engine) -> None:
    """An unknown name, and a GPU decoder on a worker without a GPU runner."""
    with pytest.raises(Defect, match="CONFIG_INVALID"):
        check_engine(engine)
