"""The self-check before anything is sent: the bytes are read back by another library and compared with their sources.

Does no I/O. It shares no code with what built the objects: codes and expectations are written out here again. Every
rule has a short name; the first one that is broken stops the result with Defect RESULT_SELF_CHECK.
"""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from types import MappingProxyType

from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError

from casework.errors import Defect
from casework.report import check_codes, check_header, check_objects, check_picture, check_sr
from casework.report.check_header import need
from casework.report.rendering import Rendered
from casework.result import CaseResult, HeatImage, Outcome

_CLASSES = {
    "sr": ("1.2.840.10008.5.1.4.1.1.88.34", "SR", 9001),
    "capture": ("1.2.840.10008.5.1.4.1.1.7", "OT", 9002),
    "sr-comprehensive": ("1.2.840.10008.5.1.4.1.1.88.33", "SR", 9003),
    **check_objects.CLASSES,
}
_REPORTS = ("sr", "sr-comprehensive")
_SIDES = {"24028007": "R", "7771000": "L"}


@dataclass(frozen=True, slots=True)
class Examined:
    """What was read back from one object that keeps the rules of its own, for the rules between objects.

    alike: what all of a series have in common. refers: (instance, class) of what a report lists as evidence. shown:
    (source that a region is on, capture that illustrates it). inferred: what a report's numbers were read from, of our own
    images: (capture, side, right, bottom). made_from, side, size: of a capture, its first source, side, (columns, rows).
    """

    sop_instance_uid: str
    alike: tuple[str, ...]
    instance_number: int
    refers: tuple[tuple[str, str], ...] = ()
    shown: tuple[tuple[str, str], ...] = ()
    inferred: tuple[tuple[str, str, float, float], ...] = ()
    made_from: str = ""
    side: str = ""
    size: tuple[int, int] = (0, 0)


def check(
    rendered: Sequence[Rendered],
    result: CaseResult,
    sources: Mapping[str, Dataset],
    examined: Mapping[bytes, Examined] = MappingProxyType({}),
) -> None:
    """Compare every object with the studies and the result that it came from.

    `examined`: what `examine` said of some of them elsewhere, by their `digest`: it counts for the very same bytes and
    envelope only.

    Raises:
        Defect: RESULT_SELF_CHECK, its detail naming the rule and the object.
    """
    _result(result, sources)
    _counts(rendered, result)
    elsewhere = {e.sop_instance_uid for e in examined.values()}
    objects: list[tuple[Rendered, Examined]] = []
    for item in (r for r in rendered if r.kind in _CLASSES):
        before = examined.get(digest(item)) if item.sop_instance_uid in elsewhere else None
        objects.append((item, before or examine(item, result, sources)))
    known = {u: str(s.SOPClassUID) for u, s in sources.items()}
    known |= {r.sop_instance_uid: r.sop_class_uid for r, _ in objects}
    for item, seen in objects:
        for uid, sop_class in seen.refers:
            need(known.get(uid) == sop_class, "references", f"an object outside the case, or its class {_name(item)}")
    _series(objects, sources)
    _links([seen for _, seen in objects])
    _rooted(objects)


def examine(item: Rendered, result: CaseResult, sources: Mapping[str, Dataset]) -> Examined:
    """Read one object back and check it by itself. A report's result may be without pixels.

    Raises:
        Defect: as `check`.
    """
    try:
        ds = _read(item)
        _frame(item, ds)
        reference = _reference(item, result, sources)
        check_header.check(ds, reference)
        seen = _own_rules(item, ds, result, sources)
        check_codes.check(item.data, reference)
    except Defect as defect:
        raise Defect(defect.code, f"{defect.detail} {_name(item)}") from defect
    except (AttributeError, LookupError, TypeError, ValueError, NotImplementedError, OSError) as error:
        raise Defect("RESULT_SELF_CHECK", f"file: {type(error).__name__} {_name(item)}") from error
    return seen


def _own_rules(item: Rendered, ds: Dataset, result: CaseResult, sources: Mapping[str, Dataset]) -> Examined:
    uid, alike, number = str(ds.SOPInstanceUID), _alike(ds), int(ds.InstanceNumber)
    if item.kind in check_objects.CLASSES:
        return Examined(uid, alike, number, refers=check_objects.check(item.kind, ds, result, sources))
    if item.kind in _REPORTS:
        refers = check_sr.check(ds, result, sources)
        inferred = tuple(check_sr.inferred(ds, sources))
        return Examined(uid, alike, number, refers=refers, shown=tuple(check_sr.illustrated(ds)), inferred=inferred)
    side = _capture(item, ds, result, sources)
    return Examined(uid, alike, number, made_from=_sources_of(ds)[0], side=side, size=(ds.Columns, ds.Rows))


def _name(item: Rendered) -> str:
    return f"[{item.kind} {item.label}]"


def digest(item: Rendered) -> bytes:
    """The SHA-256 of an object with its envelope, by which what was examined elsewhere is known again."""
    envelope = (item.kind, item.media_type, item.study_instance_uid, item.series_instance_uid, item.sop_class_uid)
    hashed = hashlib.sha256("|".join((*envelope, item.sop_instance_uid, item.label, "")).encode())
    hashed.update(item.data)
    return hashed.digest()


def _alike(ds: Dataset) -> tuple[str, ...]:
    keywords = ("SeriesInstanceUID", "SeriesNumber", "SeriesDescription", "SeriesDate", "SeriesTime", "Laterality")
    return tuple(str(ds.get(k)) for k in keywords)


def _read(item: Rendered) -> Dataset:
    try:
        return dcmread(BytesIO(item.data))
    except (InvalidDicomError, EOFError) as error:
        raise Defect("RESULT_SELF_CHECK", "file: not readable") from error


def _reference(item: Rendered, result: CaseResult, sources: Mapping[str, Dataset]) -> Dataset:
    """The source whose patient and study the object has to carry."""
    first = next((i.sources[0] for i in result.images if i.study_instance_uid == item.study_instance_uid), "")
    need(first in sources, "study", "not a study of the result's images")
    return sources[first]


# --- the result against its sources -----------------------------------------------------------------------------


def stated_side(source: Dataset) -> str:
    """The side that a source states, "" when none or both."""
    value = str(source.get("ImageLaterality") or source.get("Laterality") or "")
    return value if value in ("R", "L") else ""


def _result(result: CaseResult, sources: Mapping[str, Dataset]) -> None:
    """Before any object: every image is at hand, of one patient, and of the side that its source states."""
    answered = Counter(s.side for s in result.sides)
    need(all(n == 1 for n in answered.values()) and bool(answered), "side", "not exactly one answer a side")
    for side in result.sides:
        known = side.outcome is not Outcome.INSUFFICIENT
        need(not known or side.probability is not None, "probability", "missing")
        need(not known or any(i.side is side.side for i in result.images), "side", "an answer without an image")
        need(side.probability is None or 0 <= side.probability <= 1, "probability", "range")
    patients = set()
    for image in result.images:
        need(image.side in answered, "side", "an image of a side without an answer")
        for uid in image.sources:
            need(uid in sources, "source", "not at hand")
            source = sources[uid]
            need(str(source.StudyInstanceUID) == image.study_instance_uid, "study", "an image of another study")
            need(stated_side(source) in ("", image.side.value), "side", "an image of the other side")
            patients.add(
                (str(source.get("PatientID") or "").strip(), str(source.get("IssuerOfPatientID") or "").strip())
            )
    need(len({p for p, _ in patients}) <= 1, "patient", "sources of more than one patient")
    need(len({i for _, i in patients if i}) <= 1, "patient", "sources of more than one issuer")


def _counts(rendered: Sequence[Rendered], result: CaseResult) -> None:
    """One report a study, of each class that is there; one capture and preview an image; one JSON with the same answers."""
    studies = Counter(i.study_instance_uid for i in result.images)
    kinds = {
        kind: Counter(r.study_instance_uid for r in rendered if r.kind == kind)
        for kind in (*_REPORTS, "capture", "preview", "underlay")
    }
    need(kinds["sr"] == Counter(dict.fromkeys(studies, 1)), "count", "reports")
    need(kinds["sr-comprehensive"] in ({}, kinds["sr"]), "count", "reports of the other class")
    need(all(kinds[kind] == studies for kind in ("capture", "preview", "underlay")), "count", "captures")
    whole = [r for r in rendered if r.kind == "result-json"]
    need(len(whole) == 1, "count", "result")
    said = {s["side"]: (s["outcome"], s["probability"]) for s in json.loads(whole[0].data)["sides"]}
    silent = Outcome.INSUFFICIENT
    meant = {s.side.value: (s.outcome.value, None if s.outcome is silent else s.probability) for s in result.sides}
    need(said == meant, "answer", "JSON")
    uids = [r.sop_instance_uid for r in rendered if r.kind in _CLASSES]
    need(len(uids) == len(set(uids)), "uid", "SOP Instance UID used twice")
    captures = {r.sop_instance_uid for r in rendered if r.kind == "capture"}
    for kind in ("preview", "underlay"):
        pictures = {r.sop_instance_uid for r in rendered if r.kind == kind and r.data[:4] == b"\x89PNG"}
        need(pictures == captures, "count", f"{kind}s")


# --- each object ------------------------------------------------------------------------------------------------


def _frame(item: Rendered, ds: Dataset) -> None:
    """The object is what its envelope says."""
    sop_class, modality, number = _CLASSES[item.kind]
    meta = ds.file_meta
    need(str(ds.SOPClassUID) == sop_class == item.sop_class_uid == meta.MediaStorageSOPClassUID, "uid", "SOP class")
    need(str(ds.SOPInstanceUID) == item.sop_instance_uid == meta.MediaStorageSOPInstanceUID, "uid", "SOP instance")
    need(str(ds.StudyInstanceUID) == item.study_instance_uid, "study", "Study Instance UID")
    need(str(ds.SeriesInstanceUID) == item.series_instance_uid, "series", "Series Instance UID")
    need(str(meta.TransferSyntaxUID) == "1.2.840.10008.1.2.1", "file", "transfer syntax")
    need(
        ds.Modality == modality and ds.SeriesNumber == number and bool(ds.InstanceNumber),
        "series",
        "modality or number",
    )


def _series(objects: Sequence[tuple[Rendered, Examined]], sources: Mapping[str, Dataset]) -> None:
    """Series of our own, one per kind and study, alike in all that belongs to the series."""
    theirs = {str(s.SeriesInstanceUID) for s in sources.values()}
    alike: dict[tuple[str, str], tuple[str, ...]] = {}
    numbers: set[tuple[str, int]] = set()
    for item, seen in objects:
        need(item.series_instance_uid not in theirs, "series", "a source's Series Instance UID")
        need(item.sop_instance_uid not in sources, "uid", "a source's SOP Instance UID")
        first = alike.setdefault((item.kind, item.study_instance_uid), seen.alike)
        need(first == seen.alike, "series", "not alike")
        number = (item.series_instance_uid, seen.instance_number)
        need(number not in numbers, "series", "Instance Number used twice")
        numbers.add(number)


def _links(objects: Sequence[Examined]) -> None:
    """A region's heat-map is made from the image that the region is on; a number's heat-map is of its side."""
    made = {seen.sop_instance_uid: seen for seen in objects if seen.made_from}
    for region, capture in (pair for seen in objects for pair in seen.shown):
        need(capture in made and made[capture].made_from == region, "region", "illustrated by another image's heat-map")
    for capture, side, right, bottom in (found for seen in objects for found in seen.inferred):
        need(capture in made and made[capture].side == side, "side", "a number on a heat-map of the other side")
        columns, rows = made[capture].size
        need(right <= columns and bottom <= rows, "region", "outside its heat-map")


def _rooted(objects: Sequence[tuple[Rendered, Examined]]) -> None:
    """Every object of a study is in the evidence of its report, which leads to all of them."""
    for item, seen in objects:
        if item.kind in _REPORTS:
            listed = {uid for uid, _ in seen.refers}
            here = {r.sop_instance_uid for r, _ in objects if r.study_instance_uid == item.study_instance_uid}
            missing = here - listed - {r.sop_instance_uid for r, _ in objects if r.kind in _REPORTS}
            need(not missing, "references", f"an object that its report does not name {_name(item)}")


def _capture(item: Rendered, ds: Dataset, result: CaseResult, sources: Mapping[str, Dataset]) -> str:
    """A heat-map: pixels, side, view, orientation and sources; its side."""
    need((ds.PhotometricInterpretation, ds.SamplesPerPixel, ds.BitsAllocated) == ("RGB", 3, 8), "capture", "not RGB")
    length = ds.Rows * ds.Columns * 3
    need(len(ds.PixelData) == length + length % 2, "capture", "size")
    need(list(ds.ImageType) == ["DERIVED", "SECONDARY"] and ds.ConversionType == "WSD", "capture", "kind")
    uids = _sources_of(ds)
    need(bool(uids) and all(u in sources for u in uids), "references", "a source outside the case")
    side = _SIDES.get(str(ds.AnatomicRegionSequence[0].AnatomicRegionModifierSequence[0].CodeValue), "")
    candidates = [i for i in result.images if i.sources == tuple(uids) and i.side.value == side]
    need(bool(candidates), "side", "no such image of this side in the result")
    here = [i for i in result.images if i.study_instance_uid == item.study_instance_uid]
    number, source = int(ds.InstanceNumber), sources[uids[0]]
    image = here[number - 1] if 1 <= number <= len(here) else candidates[0]
    need(any(image is i for i in candidates), "references", "not the image of its number")
    answer = next(s for s in result.sides if s.side is image.side)
    check_picture.check(ds, image, analysed=answer.outcome is not Outcome.INSUFFICIENT)
    need(image.study_instance_uid == item.study_instance_uid, "study", "an image of another study")
    need((ds.get("ImageLaterality") or "") == stated_side(source), "side", "not the source's laterality")
    need(f" {side} " in f" {ds.ImageComments} {item.label} ", "side", "label")
    _view(ds, source, image)
    lossy = any(sources[u].get("LossyImageCompression") == "01" for u in uids)
    need((ds.LossyImageCompression == "01") == lossy, "capture", "lossy history")
    burned = any(sources[u].get("BurnedInAnnotation") == "YES" for u in uids)
    need((ds.BurnedInAnnotation == "YES") == burned, "capture", "burned-in annotation")
    need("not for diagnosis" in f"{ds.SeriesDescription} {ds.ImageComments}".lower(), "capture", "warning")
    return side


# (0008,1155) Referenced SOP Instance UID as it stands in Explicit VR Little Endian: lists of slices are long.
_REFERENCED = re.compile(rb"\x08\x00\x55\x11UI(.)\x00([0-9.]+)", re.DOTALL)


def _sources_of(ds: Dataset) -> list[str]:
    """The instances in Source Image Sequence, in order."""
    raw = ds.get_item(0x00082112)
    if raw is None or not isinstance(raw.value, bytes):
        return [str(s.ReferencedSOPInstanceUID) for s in ds.SourceImageSequence]
    found = _REFERENCED.findall(raw.value)
    need(all(length[0] - len(uid) in (0, 1) for length, uid in found), "references", "malformed")
    return [uid.decode("ascii") for _, uid in found]


def _view(ds: Dataset, source: Dataset, image: HeatImage) -> None:
    stated, code = source.get("ViewCodeSequence"), ds.get("ViewCodeSequence")
    if stated and image.modality == "MG":
        same = bool(code) and (code[0].CodeValue, code[0].CodingSchemeDesignator) == (
            stated[0].CodeValue,
            stated[0].CodingSchemeDesignator,
        )
        need(same, "view", "not the source's view code")
    ours = [str(v) for v in ds.PatientOrientation] if ds.PatientOrientation else []
    if image.modality == "MR":  # projections are always shown the radiological way round
        need(
            ours in (["L", "P"], ["P", "F"]) and (ours == ["P", "F"]) == (" SAG " in ds.ImageComments),
            "view",
            "orientation",
        )
        return
    directions = source.get("PatientOrientation")
    theirs = [] if directions is None or isinstance(directions, str) else [str(v) for v in directions]
    need(ours == (theirs if len(theirs) == 2 else []), "view", "orientation")
