"""The push parser of STOW bodies and the response it ends in: any chunking, any bytes, every limit."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from casework.dicom.stow import Limits, Parser, PartBegin, PartData, PartEnd, Stored, boundary_of, respond
from casework.errors import Refused

BOUNDARY = b"edge.1"


def body(parts: list[bytes], boundary: bytes = BOUNDARY, preamble: bytes = b"", epilogue: bytes = b"") -> bytes:
    """Write a multipart body the way RFC 2046 does."""
    lines = [preamble + b"\r\n" if preamble else b""]
    for part in parts:
        lines.append(b"--" + boundary + b"\r\nContent-Type: application/dicom\r\n\r\n" + part + b"\r\n")
    return b"".join(lines) + b"--" + boundary + b"--" + epilogue


def read(data: bytes, sizes: list[int], boundary: bytes = BOUNDARY, limits: Limits | None = None) -> list[bytes]:
    """Push `data` in pieces of the given sizes, repeated; return the parts' bytes."""
    parser, parts, position, turn = Parser(boundary, limits or Limits()), [], 0, 0
    current: list[bytes] | None = None
    while position < len(data):
        size = sizes[turn % len(sizes)]
        for event in parser.feed(data[position : position + size]):
            match event:
                case PartBegin():
                    assert current is None, "a part begins inside a part"
                    current = []
                case PartData(piece):
                    assert current is not None
                    assert piece, "an empty event"
                    current.append(piece)
                case PartEnd():
                    assert current is not None
                    parts.append(b"".join(current))
                    current = None
        position, turn = position + size, turn + 1
    parser.finish()
    return parts


def outcome(data: bytes, sizes: list[int]) -> str:
    """Return "read" or the refusal's code; any other exception passes through."""
    try:
        read(data, sizes)
    except Refused as refused:
        return refused.code
    return "read"


# Bytes that look like the beginnings of delimiters are the interesting ones.
_pieces = st.lists(
    st.one_of(
        st.sampled_from(
            [b"\r", b"\n", b"\r\n", b"--", b"\r\n--", b"\r\n--edge", b"\r\n--edge.", b"edge.1", b"\r\n\r\n"]
        ),
        st.binary(max_size=40),
    ),
    max_size=12,
).map(b"".join)


@given(
    st.lists(_pieces.filter(lambda p: b"\r\n--" + BOUNDARY not in b"\r\n" + p + b"\r\n"), min_size=1, max_size=4),
    st.lists(st.integers(1, 64), min_size=1, max_size=5),
)
def test_every_part_comes_back_byte_for_byte(parts: list[bytes], sizes: list[int]) -> None:
    """Whatever the parts hold and however the socket cuts them, the same bytes come out."""
    assert read(body(parts, preamble=b"hello", epilogue=b"\r\nbye"), sizes) == parts


@given(st.binary(max_size=400), st.lists(st.integers(1, 32), min_size=1, max_size=4))
def test_no_bytes_crash_it(data: bytes, sizes: list[int]) -> None:
    """Arbitrary bytes end in parts or in a coded refusal, never in another exception."""
    assert outcome(data, sizes) in ("read", "REQUEST_INVALID", "TRUNCATED", "HEADER_MALFORMED")


@given(st.integers(0, 2**32), st.lists(st.integers(1, 40), min_size=1, max_size=3))
def test_a_damaged_body_is_refused_or_read(seed: int, sizes: list[int]) -> None:
    """One changed byte anywhere never makes the parser lose its place: parts or a refusal come out."""
    data = bytearray(body([b"first\r\n", b"", b"\r\n--third"], preamble=b"p"))
    data[seed % len(data)] ^= 1 + (seed >> 8) % 255
    assert outcome(bytes(data), sizes) in ("read", "REQUEST_INVALID", "TRUNCATED", "HEADER_MALFORMED")


@pytest.mark.parametrize("cut", range(1, len(body([b"abc", b"def"])) - 1))
def test_a_body_cut_anywhere_is_truncated(cut: int) -> None:
    """A body that ends before its closing delimiter is refused as truncated, wherever it was cut."""
    with pytest.raises(Refused) as caught:
        read(body([b"abc", b"def"])[:cut], [7])
    assert caught.value.code == "TRUNCATED"


def test_lenient_where_rfc_2046_allows() -> None:
    """Padding after a delimiter, a part without headers and a part that names no type are all read."""
    assert PartBegin({"content-type": "Application/DICOM; transfer-syntax=*"}).media_type == "application/dicom"
    assert PartBegin({}).media_type == "application/dicom"
    raw = b"--edge.1 \t\r\n\r\nno headers\r\n--edge.1\r\nContent-Location: x\r\n\r\nno type\r\n--edge.1--\t\r\n"
    assert read(raw, [1]) == [b"no headers", b"no type"]


@pytest.mark.parametrize(
    ("raw", "code"),
    [
        (b"x" * 1200 + body([b"a"]), "REQUEST_INVALID"),
        (body([b"a"], epilogue=b"\r\n" + b"x" * 1100), "REQUEST_INVALID"),
        (body([b""] * 2001), "TOO_MANY_PARTS"),
        (b"--edge.1\r\nX: " + b"y" * 9000 + b"\r\n\r\na\r\n--edge.1--", "HEADER_MALFORMED"),
        (b"--edge.1\r\n" + b"".join(b"X%d: y\r\n" % n for n in range(40)) + b"\r\na\r\n--edge.1--", "HEADER_MALFORMED"),
        (b"--edge.1\r\nA: 1\r\n folded\r\n\r\na\r\n--edge.1--", "HEADER_MALFORMED"),
        (b"--edge.1\r\nA: 1\r\na: 2\r\n\r\na\r\n--edge.1--", "HEADER_MALFORMED"),
        (b"--edge.1\r\nA: \x00\r\n\r\na\r\n--edge.1--", "HEADER_MALFORMED"),
        (b"--edge.1\r\nContent-Encoding: gzip\r\n\r\na\r\n--edge.1--", "HEADER_MALFORMED"),
        (b"--edge.1\r\nContent-Transfer-Encoding: base64\r\n\r\na\r\n--edge.1--", "HEADER_MALFORMED"),
        (b"--edge.1x\r\n\r\na\r\n--edge.1--", "REQUEST_INVALID"),
        (b"--edge.1" + b" " * 100 + b"\r\n\r\na\r\n--edge.1--", "REQUEST_INVALID"),
    ],
)
@pytest.mark.parametrize("size", [1, 5000])
def test_limits(raw: bytes, code: str, size: int) -> None:
    """Each limit on preamble, epilogue, parts, header size, lines and padding refuses with its code."""
    with pytest.raises(Refused) as caught:
        read(raw, [size])
    assert caught.value.code == code


def test_memory_stays_small() -> None:
    """A part of any size streams through: the parser keeps less than one delimiter of it."""
    parser = Parser(BOUNDARY)
    parser.feed(b"--edge.1\r\n\r\n")
    for _ in range(64):
        got = sum(len(e.data) for e in parser.feed(b"\r" * 65536) if isinstance(e, PartData))
        assert got >= 65536 - 16
        assert len(parser._buffer) < 16


@pytest.mark.parametrize(
    ("header", "boundary"),
    [
        ('multipart/related; type="application/dicom"; boundary=abc', b"abc"),
        ("Multipart/Related;boundary=abc;type=application/dicom", b"abc"),
        ('multipart/related; boundary="a b:c?"', b"a b:c?"),
        ('multipart/related; boundary="a\\=b"', b"a=b"),
        ("multipart/related; boundary=" + "z" * 70, b"z" * 70),
    ],
)
def test_boundary(header: str, boundary: bytes) -> None:
    """The boundary is read quoted or plain, in any order and case."""
    assert boundary_of(header) == boundary


@pytest.mark.parametrize(
    ("header", "code"),
    [
        ("", "MEDIA_TYPE_NOT_ACCEPTED"),
        ("application/dicom", "MEDIA_TYPE_NOT_ACCEPTED"),
        ("multipart/form-data; boundary=abc", "MEDIA_TYPE_NOT_ACCEPTED"),
        ('multipart/related; type="application/dicom+json"; boundary=abc', "MEDIA_TYPE_NOT_ACCEPTED"),
        ("multipart/related", "REQUEST_INVALID"),
        ('multipart/related; boundary=""', "REQUEST_INVALID"),
        ('multipart/related; boundary="ends with space "', "REQUEST_INVALID"),
        ("multipart/related; boundary=" + "z" * 71, "REQUEST_INVALID"),
        ('multipart/related; boundary="\u00e9"', "REQUEST_INVALID"),
        ("multipart/related; boundary", "REQUEST_INVALID"),
        ('multipart/related; boundary="open', "REQUEST_INVALID"),
    ],
)
def test_boundary_refused(header: str, code: str) -> None:
    """Another media type is 415's code; a missing, long or illegal boundary is 400's."""
    with pytest.raises(Refused) as caught:
        boundary_of(header)
    assert caught.value.code == code


GOOD, WARNED = Stored("1.2", "1.2.3", 0), Stored("1.2", "1.2.4", 0xB006)
BAD, UNREAD = Stored("1.2", "1.2.5", 0xA900), Stored("", "", 0xC000)


@pytest.mark.parametrize(
    ("results", "status"),
    [
        ([GOOD], 200),
        ([GOOD, WARNED], 202),
        ([GOOD, BAD], 202),
        ([GOOD, UNREAD], 202),
        ([BAD], 409),
        ([UNREAD], 409),
        ([], 409),
    ],
)
def test_response_status(results: list[Stored], status: int) -> None:
    """200 all stored, 202 with a warning or a failure beside a success, 409 nothing stored (PS3.18 table 10.5.3-1)."""
    assert respond(results)[0] == status


def test_response_module() -> None:
    """Each part is in exactly one sequence, with its warning or failure reason, as DICOM JSON."""
    _, module = respond([GOOD, WARNED, BAD, UNREAD])
    assert [i["00081155"]["Value"][0] for i in module["00081199"]["Value"]] == ["1.2.3", "1.2.4"]
    assert "00081196" not in module["00081199"]["Value"][0]
    assert module["00081199"]["Value"][1]["00081196"] == {"vr": "US", "Value": [0xB006]}
    assert module["00081198"]["Value"] == [
        {
            "00081150": {"vr": "UI", "Value": ["1.2"]},
            "00081155": {"vr": "UI", "Value": ["1.2.5"]},
            "00081197": {"vr": "US", "Value": [0xA900]},
        }
    ]
    assert module["0008119A"]["Value"] == [{"00081197": {"vr": "US", "Value": [0xC000]}}]
