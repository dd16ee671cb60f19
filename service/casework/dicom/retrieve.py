"""Fetches the series of a study from a PACS, as they are stored there: WADO-RS, C-GET, or C-MOVE to our own listener.

Images are handed to `Take` one by one as they come and are never kept here. Everything is bounded, whatever the peer does:
images, bytes, and time by the rate at which bytes come. What the PACS gives may be another study or patient than was asked
for; `Take` compares and refuses, here it only counts.
"""

import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import httpx
from pydicom.dataset import Dataset
from pydicom.uid import UID, ImplicitVRLittleEndian
from pynetdicom import build_role, evt
from pynetdicom.presentation import PresentationContext
from pynetdicom.sop_class import (  # type: ignore[attr-defined]  # the names are made at import time
    StudyRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelGet,
    StudyRootQueryRetrieveInformationModelMove,
)

from casework.case import Verdict
from casework.config import Destination
from casework.dicom import status
from casework.dicom.classes import IMAGE_CLASSES, TRANSFER_SYNTAXES
from casework.dicom.header import is_uid
from casework.dicom.scu import associate, cut, deadline, release
from casework.dicom.stow import MEDIA_TYPE, Limits, Parser, PartBegin, PartData, PartEnd, boundary_of
from casework.dicom.web import WebSession
from casework.errors import Defect, Refused, Unavailable
from casework.reasons import REASONS, Family

ACCEPT = f'multipart/related; type="{MEDIA_TYPE}"; transfer-syntax=*'
SLOWEST_BYTES_PER_S = 32 << 10
GET_INSTANCE_BYTES = (
    1 << 30
)  # by C-GET an instance is in memory until it is whole; larger ones come by WADO-RS or C-MOVE
MOVE_IMAGE_S = 2.0  # so long an image may take by C-MOVE; many PACS say nothing until the last is sent
LONGEST_MOVE_S = 3600.0
_CHUNK = 1 << 20


class Sink(Protocol):
    """One image on its way in."""

    def write(self, data: bytes | memoryview) -> None:
        """Take the next bytes; never raises."""

    def finish(self) -> tuple[Verdict, str]:
        """Wait until it is durable, or say why it is not."""

    def abandon(self) -> None:
        """Forget it."""


class Take(Protocol):
    """Where images go."""

    def part10(self) -> Sink:
        """An image that comes as a Part 10 file."""

    def dataset(self, sop_class: str, sop_instance: str, transfer_syntax: str) -> Sink:
        """An image that comes as a data set."""


@dataclass(frozen=True, slots=True)
class Series:
    """One series to fetch; count as the PACS states it."""

    study_uid: str
    series_uid: str
    modality: str
    count: int


@dataclass(slots=True)
class Tally:
    """What came: images by verdict, refusals by code, and how much of the study's bounds is left."""

    images_left: int
    bytes_left: int
    counts: Counter[str] = field(default_factory=Counter)
    codes: Counter[str] = field(default_factory=Counter)

    def image(self, verdict: Verdict, code: str) -> None:
        """Count one image.

        Raises:
            Unavailable: our own trouble (disk, ledger); nothing more can be taken now.
        """
        self.counts[verdict] += 1
        if verdict is Verdict.REFUSED:
            self.codes[code] += 1
            if REASONS[code].family is Family.UNAVAILABLE:
                raise Unavailable(code)

    def began(self) -> None:
        """An image begins.

        Raises:
            Refused: FETCH_TOO_MUCH.
        """
        self.images_left -= 1
        if self.images_left < 0:
            raise Refused("FETCH_TOO_MUCH", "images")

    def came(self, size: int) -> None:
        """Bytes came.

        Raises:
            Refused: FETCH_TOO_MUCH.
        """
        self.bytes_left -= size
        if self.bytes_left < 0:
            raise Refused("FETCH_TOO_MUCH", "bytes")

    @property
    def kept(self) -> int:
        """Images that are durable here."""
        return sum(n for verdict, n in self.counts.items() if verdict != Verdict.REFUSED)


class Pace:
    """Spreads images over time: so many a second on average, also after a slow stretch."""

    def __init__(self, per_s: float, stop: threading.Event) -> None:
        self._per_s, self._stop = per_s, stop
        self._next = time.monotonic()

    def wait(self, images: int = 1) -> None:
        """Wait until the next image may come. Ends at once when the service stops."""
        now = time.monotonic()
        self._next = max(self._next, now - 1.0) + images / self._per_s
        if self._next > now:
            self._stop.wait(self._next - now)


def retrieve(destination: Destination, calling: str, series: Series, *, take: Take, tally: Tally, pace: Pace) -> None:
    """Fetch one series; `tally` tells what came, except by C-MOVE, which comes in through the listener.

    Raises:
        Unavailable: PEER_UNREACHABLE, PEER_REJECTED, PEER_BUSY, FETCH_INCOMPLETE; try again.
        Refused: FETCH_TOO_MUCH, UID_INVALID, FETCH_NOT_FOUND.
        Defect: FETCH_NOT_OFFERED, FETCH_MOVE_UNKNOWN.
    """
    if not (is_uid(series.study_uid) and is_uid(series.series_uid)):
        raise Refused("UID_INVALID", "the PACS named an identifier that is not a UID")
    match destination.retrieve:
        case "wado":
            _wado(destination, series, take, tally, pace)
        case "get":
            _Get(destination, take, tally, pace).run(calling, series)
        case "move":
            _move(destination, calling, series, pace)
        case _:
            raise Defect("FETCH_NOT_OFFERED", destination.name)


# --- WADO-RS ---------------------------------------------------------------------------------------------------


def _wado(destination: Destination, series: Series, take: Take, tally: Tally, pace: Pace) -> None:
    """Retrieve Series (PS3.18 10.4), any transfer syntax, so that the PACS sends what it holds."""
    path = f"studies/{series.study_uid}/series/{series.series_uid}"
    with WebSession(destination) as session, session.stream(path, ACCEPT) as response:
        _check_answer(response)
        limits = Limits(parts=tally.images_left + 1)
        kind = response.headers.get("Content-Type", "")
        single = kind.split(";", 1)[0].strip().lower() == MEDIA_TYPE
        try:
            parser = None if single else Parser(boundary_of(kind, limits), limits)
        except Refused as error:
            raise Defect("FETCH_NOT_OFFERED", "WADO-RS answers with another media type") from error
        body = _paced_body(response, destination.timeout_s, tally)
        _take_parts(_events(body, parser), take, tally, pace)


def _check_answer(response: httpx.Response) -> None:
    code = response.status_code
    if code in (404, 410):
        raise Unavailable("FETCH_INCOMPLETE", f"WADO HTTP {code}")
    if code in (400, 405, 406, 415, 501):
        raise Defect("FETCH_NOT_OFFERED", f"WADO HTTP {code}")
    if code not in (200, 206):
        raise Unavailable("PEER_BUSY" if code >= 500 or code == 429 else "PEER_REJECTED", f"WADO HTTP {code}")
    if response.headers.get("Content-Encoding", "identity") != "identity":
        raise Defect("FETCH_NOT_OFFERED", "WADO-RS answers with a Content-Encoding that was not asked for")


def _paced_body(response: httpx.Response, timeout_s: float, tally: Tally) -> Iterator[bytes]:
    """The body's bytes, while they come fast enough and don't exceed the bounds. Our own work doesn't count as theirs."""
    patience = timeout_s
    came = time.monotonic()
    for chunk in response.iter_raw():  # as it comes: with a size, the library would wait until so much is there
        patience += len(chunk) / SLOWEST_BYTES_PER_S - (time.monotonic() - came)
        if patience < 0:
            raise Unavailable("PEER_BUSY", "WADO too slow")
        patience = min(patience, 4 * timeout_s)
        tally.came(len(chunk))
        yield chunk
        came = time.monotonic()


def _events(body: Iterator[bytes], parser: Parser | None) -> Iterator[PartBegin | PartData | PartEnd]:
    """What a multipart body, or one of a single object, holds."""
    if parser is None:
        yield PartBegin({})
        yield from map(PartData, body)
        yield PartEnd()
        return
    try:
        for chunk in body:
            yield from parser.feed(chunk)
        parser.finish()
    except Refused as error:
        if error.code == "FETCH_TOO_MUCH":
            raise
        if error.code == "TOO_MANY_PARTS":
            raise Refused("FETCH_TOO_MUCH", "parts") from error
        raise Unavailable("FETCH_INCOMPLETE", error.code) from error


def _take_parts(events: Iterator[PartBegin | PartData | PartEnd], take: Take, tally: Tally, pace: Pace) -> None:
    sink: Sink | None = None
    try:
        for event in events:
            match event:
                case PartBegin():
                    tally.began()
                    pace.wait()
                    sink = take.part10()
                case PartData(data=data) if sink is not None:
                    sink.write(data)
                case PartEnd() if sink is not None:
                    ended, sink = sink, None
                    tally.image(*ended.finish())
    finally:
        if sink is not None:
            sink.abandon()


# --- C-GET -----------------------------------------------------------------------------------------------------


class _Get:
    """One C-GET of a series (PS3.4 C.4.3). The handlers run in the library's threads; the first problem ends it all."""

    def __init__(self, destination: Destination, take: Take, tally: Tally, pace: Pace) -> None:
        self._destination, self._take, self._tally, self._pace = destination, take, tally, pace
        self._problem: Refused | Unavailable | Defect | None = None
        self._image_bytes = 0
        self._patience = destination.timeout_s
        self._came = time.monotonic()

    def run(self, calling: str, series: Series) -> None:
        """Ask and take what comes."""
        contexts, classes = _get_contexts(series.modality)
        assoc, how = associate(
            self._destination,
            calling,
            contexts,
            roles=[build_role(UID(uid), scp_role=True) for uid in classes],
            on=[(evt.EVT_C_STORE, self._on_store), (evt.EVT_PDU_RECV, self._on_pdu)],
        )
        if assoc is None:
            raise _not_associated(how, self._destination.name)
        if StudyRootQueryRetrieveInformationModelGet not in {cx.abstract_syntax for cx in assoc.accepted_contexts}:
            release(assoc)
            raise Defect("FETCH_NOT_OFFERED", "C-GET")
        assoc.dimse_timeout = self._destination.timeout_s
        last: Dataset | None = None
        try:
            with self._watched(assoc.ae):
                for answer, _ in assoc.send_c_get(_identifier(series), StudyRootQueryRetrieveInformationModelGet):
                    last = answer
        except (RuntimeError, ValueError) as error:
            raise self._problem or Unavailable("PEER_REJECTED", type(error).__name__) from error
        finally:
            release(assoc)
        if self._problem is not None:
            raise self._problem
        _judge_answer(last, "C-GET")

    @contextmanager
    def _watched(self, ae: Any) -> Iterator[None]:
        """Cut the connection when bytes come too slowly: the library only bounds the wait for whole messages."""
        done = threading.Event()

        def watch() -> None:
            while not done.wait(0.5):
                if time.monotonic() - self._came > self._patience + 1.0:
                    cut(ae)
                    return

        thread = threading.Thread(target=watch, daemon=True, name="get-watch")
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()

    def _on_pdu(self, event: evt.Event) -> None:
        """Count bytes as PDUs come, long before an endless object would be whole."""
        size = len(event.pdu)
        now = time.monotonic()
        gained = self._patience + size / SLOWEST_BYTES_PER_S - (now - self._came)
        self._patience, self._came = max(1.0, min(gained, 4 * self._destination.timeout_s)), now
        self._image_bytes += size
        try:
            self._tally.came(size)
        except Refused as error:
            self._fail(error, event.assoc.ae)
        if self._image_bytes > GET_INSTANCE_BYTES:
            self._fail(Refused("FETCH_INSTANCE_TOO_LARGE"), event.assoc.ae)

    def _on_store(self, event: evt.Event) -> int:
        self._image_bytes = 0
        if self._problem is not None:
            return status.OUT_OF_RESOURCES
        request: Any = event.request
        try:
            self._tally.began()
            self._pace.wait()
            sink = self._take.dataset(
                str(request.AffectedSOPClassUID),
                str(request.AffectedSOPInstanceUID),
                str(event.context.transfer_syntax),
            )
            body = request.DataSet.getbuffer() if request.DataSet is not None else memoryview(b"")
            for start in range(0, len(body), _CHUNK):
                sink.write(body[start : start + _CHUNK])
            verdict, code = sink.finish()
            self._tally.image(verdict, code)
        except (Refused, Unavailable, Defect) as error:
            self._fail(error, event.assoc.ae)
            return status.OUT_OF_RESOURCES
        self._came = time.monotonic()  # our own work is not the peer's slowness
        return status.status_of(verdict, code)

    def _fail(self, error: Refused | Unavailable | Defect, ae: Any) -> None:
        self._problem = self._problem or error
        cut(ae)


def _get_contexts(modality: str) -> tuple[list[PresentationContext], list[str]]:
    """One context for each class of the modality and transfer syntax, so that each object can come as it is stored.

    Secondary captures, rare among series of images, share one context for all syntaxes: an association has 128.
    """
    syntaxes = sorted(TRANSFER_SYNTAXES)
    contexts = [_context(StudyRootQueryRetrieveInformationModelGet, [str(ImplicitVRLittleEndian)])]
    classes = [uid for uid, implied in IMAGE_CLASSES.items() if implied in (modality, "")]
    for uid in classes:
        grouped = [syntaxes] if IMAGE_CLASSES[uid] == "" else [[syntax] for syntax in syntaxes]
        contexts += [_context(uid, group) for group in grouped]
    return contexts, classes


# --- C-MOVE ----------------------------------------------------------------------------------------------------


def _move(destination: Destination, calling: str, series: Series, pace: Pace) -> None:
    """C-MOVE of a series to our own AE title (PS3.4 C.4.2); the images come in by the listener."""
    context = _context(StudyRootQueryRetrieveInformationModelMove, [str(ImplicitVRLittleEndian)])
    assoc, how = associate(destination, calling, [context])
    if assoc is None:
        raise _not_associated(how, destination.name)
    limit_s = min(destination.timeout_s + series.count * MOVE_IMAGE_S, LONGEST_MOVE_S)
    assoc.dimse_timeout = limit_s
    last: Dataset | None = None
    try:
        with deadline(assoc.ae, limit_s):
            for answer, _ in assoc.send_c_move(
                _identifier(series), calling, StudyRootQueryRetrieveInformationModelMove
            ):
                last = answer
    except (RuntimeError, ValueError) as error:
        raise Unavailable("PEER_REJECTED", type(error).__name__) from error
    finally:
        release(assoc)
    _judge_answer(last, "C-MOVE")
    pace.wait(series.count)


# --- shared ----------------------------------------------------------------------------------------------------


def offers(destination: Destination, calling: str) -> str:
    """What is missing at a PACS to fetch from it as configured: "" = nothing, else a code. Moves and fetches nothing."""
    nothing = Series("2.25.1", "2.25.1", "MG", 0)
    try:
        if destination.kind == "stow":
            with WebSession(destination) as web:
                web.get_json("studies", {"StudyInstanceUID": nothing.study_uid})
                with web.stream(f"studies/{nothing.study_uid}/series/{nothing.series_uid}", ACCEPT) as response:
                    _check_answer(response)
            return ""
        model = (
            StudyRootQueryRetrieveInformationModelGet
            if destination.retrieve == "get"
            else StudyRootQueryRetrieveInformationModelMove
        )
        wanted = [StudyRootQueryRetrieveInformationModelFind, model]
        assoc, how = associate(destination, calling, [_context(uid, [str(ImplicitVRLittleEndian)]) for uid in wanted])
        if assoc is None:
            return _not_associated(how, destination.name).code
        taken = {cx.abstract_syntax for cx in assoc.accepted_contexts}
        release(assoc)
        if not set(wanted) <= taken:
            return "FETCH_NOT_OFFERED"
        if destination.retrieve == "move":
            _move(destination, calling, nothing, Pace(1.0, threading.Event()))
    except (Refused, Unavailable, Defect) as error:
        return (
            "" if error.code == "FETCH_INCOMPLETE" else error.code
        )  # nothing is there under that UID, as it should be
    return ""


def _judge_answer(last: Dataset | None, what: str) -> None:
    """Raise for everything but an end with success, or with warnings whose images are counted elsewhere."""
    code = last.get("Status") if last is not None else None
    words = f"{what} " + ("no status" if code is None else f"{code:#06x}")
    if code is None or code in (0xFF00, 0xFF01):
        raise Unavailable("PEER_OUTCOME_UNKNOWN", words)
    if code == 0xA801:
        raise Defect("FETCH_MOVE_UNKNOWN", words)
    if code in (0x0122, 0x0112, 0x0211, 0x0124):
        raise Defect("FETCH_NOT_OFFERED", words)
    if code != 0x0000 and code >> 12 != 0xB:
        raise Unavailable("FETCH_INCOMPLETE" if code >> 12 == 0xC else "PEER_BUSY", words)


def _not_associated(how: str, name: str) -> Unavailable | Defect:
    codes: Mapping[str, str] = {
        "unreachable": "PEER_UNREACHABLE",
        "tls": "PEER_TLS",
        "rejected_permanent": "PEER_REJECTED_FOR_GOOD",
    }
    if how == "no_context":
        return Defect("FETCH_NOT_OFFERED", name)
    code = codes.get(how, "PEER_REJECTED")
    return Defect(code, name) if code == "PEER_REJECTED_FOR_GOOD" else Unavailable(code, name)


def _identifier(series: Series) -> Dataset:
    query = Dataset()
    query.QueryRetrieveLevel = "SERIES"
    query.StudyInstanceUID, query.SeriesInstanceUID = series.study_uid, series.series_uid
    return query


def _context(abstract_syntax: str, syntaxes: list[str]) -> PresentationContext:
    context = PresentationContext()
    context.abstract_syntax = UID(abstract_syntax)
    for syntax in syntaxes:
        context.add_transfer_syntax(UID(syntax))
    return context
