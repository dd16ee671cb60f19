"""Small inputs that parse, made on the spot; real files join them when their folder is there."""

import json
from pathlib import Path

import imagecodecs
import numpy as np

from tests.api.samples import mammogram, multipart
from tests.protocol.peer import EXPLICIT, IMPLICIT, MR, command, request

ROOT = Path(__file__).resolve().parents[2]


def seeds(target: str, shared: Path | None = None) -> list[bytes]:
    """Inputs to begin with."""
    file = mammogram(SpecificCharacterSet="ISO_IR 192")
    flat = np.arange(64, dtype=np.uint8).reshape(8, 8)
    made = {
        "header": [file],
        "dataset": [bytes([kind]) + file[350:] for kind in range(4)],
        "multipart": [b"\x07" + multipart([b"one", b"two"], "b")[0]],
        "content_type": [b'multipart/related; type="application/dicom"; boundary="b"'],
        "association": [request({1: (MR, [EXPLICIT, IMPLICIT]), 3: ("1.2.840.10008.1.20.1", [IMPLICIT])})],
        "command": [command(1, MR, "1.2.3", data=True), command(0x30, MR, data=False)],
        "manifest": [(ROOT / "models" / "cman-tiny" / "manifest.json").read_bytes()],
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
