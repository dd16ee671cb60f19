"""STOW-RS, the server's half: a push parser for multipart/related bodies, and the Store Instances response. Does no I/O.

Feed it whatever the socket gave; it hands back events. It never holds more than one delimiter or one header block, so
a part of any size streams through. Every limit is absolute and is checked before memory is used (reliability section 2,
row "Multipart DoS"). Grammar: RFC 2046 5.1.1, RFC 2387; response: PS3.18 10.5.3 and PS3.18 annex F.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

from casework.errors import Refused

MEDIA_TYPE = "application/dicom"


@dataclass(frozen=True, slots=True)
class Limits:
    """What one request may ask of us. Bytes unless the name says otherwise."""

    boundary: int = 70  # RFC 2046 5.1.1
    preamble: int = 1 << 10
    epilogue: int = 1 << 10
    part_header: int = 8 << 10
    header_lines: int = 32
    padding: int = 64
    parts: int = 2000


@dataclass(frozen=True, slots=True)
class PartBegin:
    """A part's headers are complete; names are lower case."""

    headers: Mapping[str, str]

    @property
    def media_type(self) -> str:
        """The part's media type without parameters, lower case; a part that names none is what the request names."""
        return self.headers.get("content-type", MEDIA_TYPE).split(";", 1)[0].strip().lower()


@dataclass(frozen=True, slots=True)
class PartData:
    """The next bytes of the current part."""

    data: bytes


@dataclass(frozen=True, slots=True)
class PartEnd:
    """The current part is complete: its closing delimiter was seen."""


Event = PartBegin | PartData | PartEnd


# --- the request's Content-Type ------------------------------------------------------------------------------

_TOKEN = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"  # noqa: S105 - RFC 9110 5.6.2's name for a word, not a secret
_PARAMETER = re.compile(rf'\s*;\s*({_TOKEN})\s*=\s*(?:"((?:[^"\\\r\n]|\\[^\r\n])*)"|([^\s;",]+))\s*')
_BOUNDARY = re.compile(r"[0-9A-Za-z'()+_,\-./:=? ]*[0-9A-Za-z'()+_,\-./:=?]")


def boundary_of(content_type: str, limits: Limits = Limits()) -> bytes:
    """Return the boundary of a `multipart/related; type="application/dicom"` header.

    Raises:
        Refused: MEDIA_TYPE_NOT_ACCEPTED for another media type; REQUEST_INVALID for a missing or illegal boundary.
    """
    kind, parameters = _parse_content_type(content_type)
    if kind != "multipart/related" or parameters.get("type", MEDIA_TYPE).lower() != MEDIA_TYPE:
        raise Refused("MEDIA_TYPE_NOT_ACCEPTED", "expected multipart/related; type=application/dicom")
    boundary = parameters.get("boundary", "")
    if not 1 <= len(boundary) <= limits.boundary or not _BOUNDARY.fullmatch(boundary):
        raise Refused("REQUEST_INVALID", "boundary missing or illegal")
    return boundary.encode("ascii")


def _parse_content_type(value: str) -> tuple[str, dict[str, str]]:
    """Split a Content-Type into its media type and parameters; the first of equal names wins."""
    kind, _, _ = value.partition(";")
    parameters: dict[str, str] = {}
    position = len(kind)
    while position < len(value):
        match = _PARAMETER.match(value, position)
        if match is None:
            raise Refused("REQUEST_INVALID", "Content-Type can't be read")
        quoted, plain = match[2], match[3]
        text = re.sub(r"\\(.)", r"\1", quoted) if quoted is not None else plain
        parameters.setdefault(match[1].lower(), text)
        position = match.end()
    return kind.strip().lower(), parameters


# --- the body ------------------------------------------------------------------------------------------------


class _Stage(Enum):
    PREAMBLE = auto()
    AFTER_DELIMITER = auto()
    HEADERS = auto()
    BODY = auto()
    EPILOGUE = auto()


class Parser:
    """A multipart body, pushed in pieces of any size.

    `feed` returns the events that the bytes complete; `finish` says that the body ended. After an exception the parser
    is spent. A delimiter that is split over pieces is found all the same.
    """

    def __init__(self, boundary: bytes, limits: Limits = Limits()) -> None:
        self._delimiter = b"\r\n--" + boundary
        self._limits = limits
        self._stage = _Stage.PREAMBLE
        # A CRLF before the first byte makes the first delimiter look like all the others.
        self._buffer = bytearray(b"\r\n")
        self._parts = 0
        self._skip = 0  # bytes at the buffer's start that belong to the headers, not to the part

    @property
    def complete(self) -> bool:
        """Whether the closing delimiter was seen."""
        return self._stage is _Stage.EPILOGUE

    @property
    def parts(self) -> int:
        """How many parts have begun."""
        return self._parts

    def feed(self, data: bytes) -> list[Event]:
        """Take the next bytes.

        Raises:
            Refused: REQUEST_INVALID for a body that isn't multipart, TOO_MANY_PARTS or HEADER_MALFORMED for a part
                that is beyond a limit.
        """
        self._buffer += data
        events: list[Event] = []
        steps = {
            _Stage.PREAMBLE: self._preamble,
            _Stage.AFTER_DELIMITER: self._after_delimiter,
            _Stage.HEADERS: self._headers,
            _Stage.BODY: self._body,
            _Stage.EPILOGUE: self._epilogue,
        }
        while steps[self._stage](events):
            pass
        return events

    def finish(self) -> None:
        """Say that no more bytes come.

        Raises:
            Refused: TRUNCATED when the closing delimiter never came.
        """
        if not self.complete:
            raise Refused("TRUNCATED", "the multipart body ends before its closing delimiter")

    # Each step returns True when it made progress and the next step may too.

    def _preamble(self, _: list[Event]) -> bool:
        at = self._buffer.find(self._delimiter)
        if (at if at >= 0 else len(self._buffer) - len(self._delimiter)) > self._limits.preamble:
            raise Refused("REQUEST_INVALID", "the first delimiter does not come")
        if at < 0:
            return False
        self._consume(at + len(self._delimiter))
        self._stage = _Stage.AFTER_DELIMITER
        return True

    def _after_delimiter(self, _: list[Event]) -> bool:
        """Either `--` (the end) or padding and CRLF (a part follows)."""
        if self._buffer.startswith(b"--"):
            self._stage = _Stage.EPILOGUE
            self._consume(2)
            return True
        line = re.match(rb"[ \t]{0,%d}\r\n" % self._limits.padding, self._buffer)
        if line is None:
            if re.fullmatch(rb"-|[ \t]{0,%d}\r?" % self._limits.padding, self._buffer):
                return False
            raise Refused("REQUEST_INVALID", "a delimiter line holds something else")
        self._parts += 1
        if self._parts > self._limits.parts:
            raise Refused("TOO_MANY_PARTS", f"more than {self._limits.parts}")
        # The CRLF stays: header lines are then each led by one, and an empty block is CRLF CRLF at once.
        self._consume(line.end() - 2)
        self._stage = _Stage.HEADERS
        return True

    def _headers(self, events: list[Event]) -> bool:
        end = self._buffer.find(b"\r\n\r\n", 0, self._limits.part_header + 6)
        if end < 0:
            if len(self._buffer) >= self._limits.part_header + 6:
                raise Refused("HEADER_MALFORMED", "a part's headers are too long")
            return False
        events.append(PartBegin(_parse_headers(bytes(self._buffer[:end]), self._limits)))
        # The last CRLF stays, so that a part of no bytes, whose delimiter follows at once, is found.
        self._consume(end + 2)
        self._stage = _Stage.BODY
        self._skip = 2
        return True

    def _body(self, events: list[Event]) -> bool:
        at = self._buffer.find(self._delimiter)
        # Without a delimiter, all but a possible beginning of one is the part's.
        end = at if at >= 0 else len(self._buffer) - len(self._delimiter) + 1
        if end > self._skip:
            events.append(PartData(bytes(memoryview(self._buffer)[self._skip : end])))
        if at >= 0:
            events.append(PartEnd())
            self._consume(at + len(self._delimiter))
            self._stage = _Stage.AFTER_DELIMITER
            return True
        if end > 0:
            self._consume(end)
            self._skip = max(0, self._skip - end)
        return False

    def _epilogue(self, _: list[Event]) -> bool:
        """Count what follows the end and forget it."""
        if len(self._buffer) > self._limits.epilogue:
            raise Refused("REQUEST_INVALID", "too much follows the closing delimiter")
        return False

    def _consume(self, count: int) -> None:
        del self._buffer[:count]


def _parse_headers(block: bytes, limits: Limits) -> dict[str, str]:
    """Parse `CRLF name: value` lines into a dictionary with lower-case names.

    Raises:
        Refused: HEADER_MALFORMED for folded, repeated, non-ASCII or control characters, or too many lines.
    """
    lines = block.split(b"\r\n")[1:]
    if len(lines) > limits.header_lines:
        raise Refused("HEADER_MALFORMED", "too many header lines in a part")
    headers: dict[str, str] = {}
    for line in lines:
        match = re.fullmatch(rf"({_TOKEN}):[ \t]*([\x20-\x7e\t]*)", line.decode("latin-1"))
        if match is None or match[1].lower() in headers:
            raise Refused("HEADER_MALFORMED", "a part's header line can't be read")
        headers[match[1].lower()] = match[2].rstrip()
    if headers.get("content-transfer-encoding", "binary").lower() not in ("binary", "8bit", "7bit"):
        raise Refused("HEADER_MALFORMED", "Content-Transfer-Encoding is not binary")
    if "content-encoding" in headers:
        raise Refused("HEADER_MALFORMED", "Content-Encoding is not accepted")
    return headers


# --- the response ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Stored:
    """How one part ended: status 0 or a warning (0xBxxx) is stored, anything else failed. UIDs are "" when unread."""

    sop_class_uid: str
    sop_instance_uid: str
    status: int

    @property
    def ok(self) -> bool:
        """Whether the instance is durable here."""
        return self.status == 0 or self.status >> 12 == 0xB


def respond(results: Iterable[Stored]) -> tuple[int, dict[str, Any]]:
    """Return the HTTP status and the Store Instances response module as DICOM JSON (PS3.18 10.5.3.1, table 10.5.3-1).

    200 when everything was stored, 202 when there is a warning or a failure beside a success, 409 when nothing was.
    """
    results = list(results)
    stored = [item for item in results if item.ok]
    failed = [item for item in results if not item.ok]
    # RetrieveURL is type 2 there: this service keeps images only as long as it works on them and serves none.
    module: dict[str, Any] = {"00081190": {"vr": "UR"}}
    if stored:
        module["00081199"] = {"vr": "SQ", "Value": [_reference(item, "00081196") for item in stored]}
    named = [item for item in failed if item.sop_instance_uid and item.sop_class_uid]
    if named:
        module["00081198"] = {"vr": "SQ", "Value": [_reference(item, "00081197") for item in named]}
    unnamed = [item for item in failed if not (item.sop_instance_uid and item.sop_class_uid)]
    if unnamed:
        module["0008119A"] = {"vr": "SQ", "Value": [_status("00081197", item.status) for item in unnamed]}
    if not stored:
        return 409, module
    return (202 if failed or any(item.status for item in stored) else 200), module


def _reference(item: Stored, reason_tag: str) -> dict[str, Any]:
    reference: dict[str, Any] = {
        "00081150": {"vr": "UI", "Value": [item.sop_class_uid]},
        "00081155": {"vr": "UI", "Value": [item.sop_instance_uid]},
    }
    if item.status:
        reference |= _status(reason_tag, item.status)
    return reference


def _status(tag: str, status: int) -> dict[str, Any]:
    return {tag: {"vr": "US", "Value": [status]}}
