"""Small inputs that parse, made on the spot; real files join them when their folder is there."""

import io
import json
from pathlib import Path

import imagecodecs
import numpy as np
from pydicom import dcmread, dcmwrite, uid
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence

from tests.api.samples import mammogram, multipart
from tests.protocol.peer import EXPLICIT, IMPLICIT, MR, command, request

ROOT = Path(__file__).resolve().parents[2]


def encodings(file: bytes) -> list[bytes]:
    """One file in every way of writing a data set: both byte orders, implicit, deflated, fragments, nested sequences, three alphabets."""
    made: list[bytes] = []
    for syntax in (
        uid.ImplicitVRLittleEndian,
        uid.ExplicitVRBigEndian,
        uid.DeflatedExplicitVRLittleEndian,
        uid.JPEGLosslessSV1,
    ):
        ds = dcmread(io.BytesIO(file))
        code = Dataset()
        code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = "399162004", "SCT", "x"
        ds.ViewCodeSequence = Sequence([code, Dataset()])
        if syntax == uid.JPEGLosslessSV1:
            ds.SpecificCharacterSet, ds.PatientName = ["", "ISO 2022 IR 87"], "Yamada^Tarou=\u5c71\u7530^\u592a\u90ce"
            ds.PixelData = encapsulate([bytes(imagecodecs.ljpeg_encode(ds.pixel_array))])
            ds["PixelData"].VR, ds["PixelData"].is_undefined_length = "OB", True
        elif syntax == uid.ExplicitVRBigEndian:
            ds.SpecificCharacterSet, ds.PatientName = "GB18030", "\u5f20^\u4e3d"
            ds.PixelData = ds.pixel_array.byteswap().tobytes()
        ds.file_meta.TransferSyntaxUID = syntax
        whole = io.BytesIO()
        dcmwrite(
            whole, ds, implicit_vr=syntax.is_implicit_VR, little_endian=syntax.is_little_endian, force_encoding=True
        )
        made.append(whole.getvalue())
    return made


def seeds(target: str, shared: Path | None = None) -> list[bytes]:
    """Inputs to begin with."""
    file = mammogram(SpecificCharacterSet="ISO_IR 192")
    flat = np.arange(64, dtype=np.uint8).reshape(8, 8)
    made = {
        "header": [file, *encodings(file)],
        "dataset": [bytes([kind]) + file[350:] for kind in range(4)],
        "multipart": [
            b"\x07" + multipart([b"one", b"two"], "b")[0],
            b"\x09preamble\r\n--b  \r\nContent-Type: application/dicom; x=y\r\nContent-Transfer-Encoding: 8bit\r\n\r\n\r\n--c\r\n--b--\r\nend",
        ],
        "content_type": [
            b'multipart/related; type="application/dicom"; boundary="b"',
            b'multipart/related; boundary="a\\b"; start=x',
        ],
        "association": [request({1: (MR, [EXPLICIT, IMPLICIT]), 3: ("1.2.840.10008.1.20.1", [IMPLICIT])})],
        "command": [command(1, MR, "1.2.3", data=True), command(0x30, MR, data=False)],
        "manifest": [(ROOT / "models" / name / "manifest.json").read_bytes() for name in ("cman-tiny", "cman")],
        "graph": [(ROOT / "models" / "cman-tiny" / "fusion.onnx").read_bytes()[:4096]],
        "codestream": [
            bytes(imagecodecs.jpeg2k_encode(flat, level=0, codecformat="j2k")),
            bytes(imagecodecs.ljpeg_encode(flat)),
        ],
        "key_set": [json.dumps({"keys": [{"kty": "RSA", "kid": "a", "n": "AQAB", "e": "AQAB"}]}).encode()],
        "signed": [json.dumps({"algorithm": "ed25519", "key": "0" * 16, "signature": "AAAA"}).encode()],
    }[target]
    if shared is not None and target in ("header", "dataset"):
        made += [path.read_bytes()[: 64 << 10] for path in sorted(shared.glob("*.dcm"))]
    return made
