"""Who released a model package: an Ed25519 signature over its manifest, which names the digest of every other file.

`manifest.sig` lies beside `manifest.json`: {"algorithm": "ed25519", "key": first 16 hex digits of the public key's
SHA-256, "signature": base64}. A prefix is signed with the manifest, so that a signature for another purpose never fits.
"""

import base64
import binascii
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from casework.errors import Defect

FILE = "manifest.sig"
MAX_BYTES = 4 << 10
_PREFIX = b"casework model package v1\0"


def sign(manifest: bytes, private_key_file: Path) -> bytes:
    """The content of `manifest.sig`.

    Raises:
        Defect: CONFIG_INVALID, the key can't be used or is open to others.
    """
    try:
        if private_key_file.stat().st_mode & 0o077:
            raise Defect("CONFIG_INVALID", f"{private_key_file}: must be readable by its owner only (chmod 600)")
        key = load_pem_private_key(private_key_file.read_bytes(), None)
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise Defect("CONFIG_INVALID", f"{private_key_file}: {type(error).__name__}") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise Defect("CONFIG_INVALID", f"{private_key_file}: not an Ed25519 key")
    made = base64.b64encode(key.sign(_PREFIX + manifest)).decode()
    said = {"algorithm": "ed25519", "key": key_id(key.public_key()), "signature": made}
    return (json.dumps(said, indent=1) + "\n").encode()


def signer(manifest: bytes, signature: bytes, public_key_files: Sequence[str]) -> str:
    """The id of the trusted key that signed.

    Raises:
        Defect: MODEL_UNSIGNED, none of them did; CONFIG_INVALID, a key can't be read.
    """
    trusted = {key_id(key): key for key in map(read_public_key, public_key_files)}
    try:
        said = json.loads(signature)
        name, made = str(said["key"]), base64.b64decode(str(said["signature"]), validate=True)
        if said["algorithm"] != "ed25519":
            raise Defect("MODEL_UNSIGNED", "another algorithm than ed25519")
        trusted[name].verify(made, _PREFIX + manifest)
    except (ValueError, KeyError, TypeError, binascii.Error) as error:
        raise Defect("MODEL_UNSIGNED", f"{FILE}: no signature of a trusted key") from error
    except InvalidSignature as error:
        raise Defect("MODEL_UNSIGNED", f"{FILE}: does not fit manifest.json") from error
    return name


def read_public_key(file: str) -> Ed25519PublicKey:
    """A public key from its PEM file.

    Raises:
        Defect: CONFIG_INVALID.
    """
    try:
        key = load_pem_public_key(Path(file).read_bytes())
    except (OSError, ValueError, UnsupportedAlgorithm) as error:
        raise Defect("CONFIG_INVALID", f"signing.public_key_files {file}: {type(error).__name__}") from error
    if not isinstance(key, Ed25519PublicKey):
        raise Defect("CONFIG_INVALID", f"signing.public_key_files {file}: not an Ed25519 key")
    return key


def key_id(key: Ed25519PublicKey) -> str:
    """How a key is named in signatures and in the audit."""
    return hashlib.sha256(key.public_bytes(Encoding.Raw, PublicFormat.Raw)).hexdigest()[:16]
