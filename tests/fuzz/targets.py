"""The parsers that strangers reach. Each target may raise what it declares and nothing else; it also checks what it returns."""

import json
import struct
import warnings
from collections.abc import Callable, Mapping

from casework.dicom import stow
from casework.dicom.guard import caller_of
from casework.dicom.header import is_uid, peek, read_dataset, read_header
from casework.dicom.scp import negotiate, parse_command
from casework.engine import signature
from casework.engine.bundle import _manifest
from casework.engine.protobuf import has_external_data
from casework.entrypoints.api.tokens import read_key_set
from casework.errors import Defect, Refused
from casework.preprocess.codestream import read_j2k, read_jpeg

SYNTAXES = ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.99")


def header(data: bytes) -> None:
    """A Part 10 file; what is accepted has names that are names, in what a refusal's row says too."""
    with warnings.catch_warnings(action="ignore"):
        first = peek(data[:4096])
    assert first is None or is_uid(first.sop_instance_uid)
    try:
        with warnings.catch_warnings(action="ignore"):  # pydicom remarks on characters; what comes of them counts
            found = read_header(data)
    except Refused:
        return
    assert all(is_uid(uid) for uid in (found.sop_instance_uid, found.study_instance_uid, found.series_instance_uid))


def dataset(data: bytes) -> None:
    """A bare data set in one of four encodings, as C-STORE brings it."""
    try:
        with warnings.catch_warnings(action="ignore"):
            read_dataset(data[1:], 0, SYNTAXES[data[0] % 4] if data else SYNTAXES[0], 1 << 30)
    except Refused:
        return


def multipart(data: bytes) -> None:
    """A STOW-RS body in pieces: no event is lost or invented, whatever the pieces."""
    pieces = max(1, data[0] if data else 1)
    body = data[1:]

    def run(size: int) -> tuple[int, int, bytes] | str:
        parser = stow.Parser(b"b", stow.Limits(parts=20))
        events: list[stow.Event] = []
        try:
            for at in range(0, len(body), size):
                events += parser.feed(body[at : at + size])
            parser.finish()
        except Refused as error:
            return error.code
        counts = [sum(isinstance(e, kind) for e in events) for kind in (stow.PartBegin, stow.PartEnd)]
        return counts[0], counts[1], b"".join(e.data for e in events if isinstance(e, stow.PartData))

    told = run(pieces)
    assert told == run(len(body) + 1)
    ends = body[: told[1]] if isinstance(told, tuple) else b""  # how each part ended, and whether its UIDs were read
    results = [
        stow.Stored("1.2" * (end & 1), "1.3" * (end & 2 > 0), (0, 0, 0xB000, 0xA700)[end >> 2 & 3]) for end in ends
    ]
    status, answer = stow.respond(results)
    assert (status == 409) == (not any(one.ok for one in results))
    assert sum(len(answer.get(tag, {}).get("Value", ())) for tag in ("00081199", "00081198", "0008119A")) == len(
        results
    )


def content_type(data: bytes) -> None:
    """A Content-Type header of a STOW-RS request."""
    try:
        boundary = stow.boundary_of(data.decode("latin-1"))
    except Refused:
        return
    assert 1 <= len(boundary) <= 70


def association(data: bytes) -> None:
    """An A-ASSOCIATE-RQ, and the answer that is made of it."""
    try:
        caller_of(data, "127.0.0.1")
        answer, contexts = negotiate(data, 1 << 16, reports=True)
    except Refused:
        return
    assert struct.unpack(">I", answer[2:6])[0] == len(answer) - 6
    assert len(contexts) <= 128


def command(data: bytes) -> None:
    """A command set."""
    try:
        parse_command(data)
    except Refused:
        return


def manifest(data: bytes) -> None:
    """A model package's manifest."""
    try:
        _manifest(data)
    except Defect:
        return


def graph(data: bytes) -> None:
    """An ONNX file, searched for data outside it."""
    try:
        has_external_data(data)
    except ValueError:
        return


def codestream(data: bytes) -> None:
    """A JPEG or JPEG 2000 codestream's own words about its size."""
    for reader in (read_j2k, read_jpeg):
        try:
            reader(data)
        except Refused:
            continue


def key_set(data: bytes) -> None:
    """An issuer's key set; private and symmetric keys never come out of it."""
    try:
        keys = read_key_set(data)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return
    assert all(kind in ("RSA", "EC") for kind, _ in keys.values())


def signed(data: bytes) -> None:
    """A signature file: nothing is ever signed by nobody."""
    try:
        signature.signer(b"{}", data, ())
    except (Defect, RecursionError):
        return
    raise AssertionError(json.dumps(data.hex()))


TARGETS: Mapping[str, Callable[[bytes], None]] = {
    target.__name__: target
    for target in (
        header,
        dataset,
        multipart,
        content_type,
        association,
        command,
        manifest,
        graph,
        codestream,
        key_set,
        signed,
    )
}
