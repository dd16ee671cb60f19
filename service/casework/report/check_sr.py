"""Self-check of a structured report's flags, evidence and tree against the result. Does no I/O.

Written apart from what builds the report: codes and expected answers are this check's own. Only its words are those of
the same table.
"""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from pydicom.dataset import Dataset

from casework.report.check_header import need
from casework.report.describe import limit_lines, method_lines, side_lines
from casework.report.texts import LANGUAGES, say
from casework.result import CaseResult, HeatImage, Outcome, SideResult

_SIDES = {"24028007": "R", "7771000": "L"}
_PRESENT, _ABSENT, _UNDETERMINED = "52101004", "272519000", "373068000"
_ANSWERS = {
    Outcome.POSITIVE: _PRESENT,
    Outcome.NEGATIVE: _ABSENT,
    Outcome.INDETERMINATE: _UNDETERMINED,
    Outcome.INSUFFICIENT: _UNDETERMINED,
}
_FLAGS = {"CompletionFlag": "COMPLETE", "VerificationFlag": "UNVERIFIED", "PreliminaryFlag": "PRELIMINARY"}


def check(ds: Dataset, result: CaseResult, sources: Mapping[str, Dataset]) -> tuple[tuple[str, str], ...]:
    """The whole report; (instance, class) of all that it refers to, which only the caller can compare with the case.

    Raises:
        Defect: RESULT_SELF_CHECK, naming the rule.
    """
    flags(ds)
    need(name(ds) == "126000" and ds.ContentTemplateSequence[0].TemplateIdentifier == "1500", "sr title")
    items = list(walk(ds))
    need(all("ConceptNameCodeSequence" in i for i in items), "sr tree", "item without a concept name")
    need(not any(t.is_private for i in items for t in i.keys()), "private", "content tree")  # noqa: SIM118
    texts = [str(i.TextValue) for i in items if i.ValueType == "TEXT"]
    need(all(t.strip() and "\ufffd" not in t and "\x1b" not in t for t in texts), "charset", "content tree")
    refers = _evidence(ds, items, sources)
    predecessors(ds, result)
    _answers(ds, items, result, sources)
    need(any(name(i) == "121012" and result.model.device_uid == i.UID for i in items), "origin", "device observer")
    return refers


def flags(ds: Dataset) -> None:
    """Complete, preliminary, verified by nobody."""
    for keyword, value in _FLAGS.items():
        need(ds.get(keyword) == value, "sr flags", keyword)
    need("VerifyingObserverSequence" not in ds, "sr flags", "verifying observer")


def name(item: Dataset) -> str:
    """The code value of an item's concept name."""
    names = item.get("ConceptNameCodeSequence")
    return str(names[0].CodeValue) if names else ""


def walk(item: Dataset) -> Iterator[Dataset]:
    """Every item below."""
    for child in item.get("ContentSequence", []):
        yield child
        yield from walk(child)


def code(item: Dataset) -> str:
    """The code value that an item holds."""
    return str(item.ConceptCodeSequence[0].CodeValue)


# --- references -----------------------------------------------------------------------------------------------


def listed(ds: Dataset, keyword: str) -> list[tuple[str, str, str, str]]:
    """(study, series, class, instance) of a hierarchical reference."""
    return [
        (
            str(study.StudyInstanceUID),
            str(series.SeriesInstanceUID),
            str(r.ReferencedSOPClassUID),
            str(r.ReferencedSOPInstanceUID),
        )
        for study in ds.get(keyword, [])
        for series in study.ReferencedSeriesSequence
        for r in series.ReferencedSOPSequence
    ]


def _evidence(ds: Dataset, items: list[Dataset], sources: Mapping[str, Dataset]) -> tuple[tuple[str, str], ...]:
    """Every reference is listed with its class under the right heading; the list."""
    current = listed(ds, "CurrentRequestedProcedureEvidenceSequence")
    other = listed(ds, "PertinentOtherEvidenceSequence")
    for study, series, _, instance in (*current, *other):
        if instance in sources:
            source = sources[instance]
            need(
                (str(source.StudyInstanceUID), str(source.SeriesInstanceUID)) == (study, series),
                "references",
                "hierarchy",
            )
    need(all(e[0] == ds.StudyInstanceUID for e in current), "references", "current evidence of another study")
    need(all(e[0] != ds.StudyInstanceUID for e in other), "references", "pertinent evidence of this study")
    evidence = {e[3]: e[2] for e in (*current, *other)}
    for item in items:
        for reference in item.get("ReferencedSOPSequence", []):
            uid = str(reference.ReferencedSOPInstanceUID)
            need(uid in evidence, "references", "an object that is not in the evidence")
            need(evidence[uid] == reference.ReferencedSOPClassUID, "references", "class")
            frame = int(reference.get("ReferencedFrameNumber") or 1)
            need(
                uid not in sources or 1 <= frame <= int(sources[uid].get("NumberOfFrames") or 1), "references", "frame"
            )
    return tuple((e[3], e[2]) for e in (*current, *other))


def predecessors(ds: Dataset, result: CaseResult) -> None:
    """The documents of this study that it replaces, all of them."""
    expected = sorted(p for p in result.predecessors if p[0] == ds.StudyInstanceUID)
    need(sorted(listed(ds, "PredecessorDocumentsSequence")) == expected, "predecessors")


# --- answers --------------------------------------------------------------------------------------------------


def _answers(ds: Dataset, items: list[Dataset], result: CaseResult, sources: Mapping[str, Dataset]) -> None:
    """Each side has the result's answer once, and nothing else is said of it."""
    groups = [i for i in items if name(i) == "125007"]
    analysed = {
        s.side.value: s for s in result.sides if s.outcome is not Outcome.INSUFFICIENT and s.probability is not None
    }
    asked = analysed or {s.side.value: s for s in result.sides}
    examined: list[str] = []
    for group in groups:
        side = _side(group)
        need(side in asked, "side", "a group of a side that has no answer")
        template = group.ContentTemplateSequence[0].TemplateIdentifier
        need(template in ("1501", "1410"), "sr tree", "template of a group")
        finding = {"1501": "68171009", "1410": "130402"}[template]  # the node; an activation, wherever it is
        need(_finding(group) == finding and _has(group, "112039", "112040", "111001", "111003"), "sr tree", "group")
        _images(group, side, sources)
        if template == "1501":
            examined.append(side)
            _examination(group, asked[side])
        else:
            _region(group, side, result)
    need(sorted(examined) == sorted(asked), "side", "not exactly one answer a side")
    _silent(ds, result, analysed)


def _side(group: Dataset) -> str:
    sites = [i for i in group.ContentSequence if name(i) == "363698007"]
    sides = [_SIDES.get(code(m), "") for s in sites for m in s.get("ContentSequence", []) if name(m) == "272741003"]
    need(len(sides) == 1 and bool(sides[0]), "side", "a group without exactly one side")
    return sides[0]


def _finding(group: Dataset) -> str:
    return next((code(i) for i in group.ContentSequence if name(i) == "121071"), "")


def _has(group: Dataset, *names: str) -> bool:
    return set(names) <= {name(i) for i in group.ContentSequence}


def _images(group: Dataset, side: str, sources: Mapping[str, Dataset]) -> None:
    """All images of a group are of its side, and all outlines lie inside their image."""
    for item in walk(group):
        for reference in item.get("ReferencedSOPSequence", []):
            source = sources.get(str(reference.ReferencedSOPInstanceUID))
            stated = "" if source is None else str(source.get("ImageLaterality") or source.get("Laterality") or "")
            need(stated not in ("R", "L") or stated == side, "side", "a finding on an image of the other side")
        if item.ValueType == "SCOORD":
            where = sources.get(_on(item))
            x, y = item.GraphicData[0::2], item.GraphicData[1::2]
            need(len(x) == len(y) >= 4 and (x[0], y[0]) == (x[-1], y[-1]), "region", "not a closed outline")
            need(where is not None or name(item) != "111030", "references", "a region on another image than a source")
            inside = where is None or (max(x) <= where.Columns and max(y) <= where.Rows)
            need(inside and min(x) >= 0 and min(y) >= 0, "region", "outside its image")


def _on(coordinates: Dataset) -> str:
    """The instance that coordinates are on."""
    return str(coordinates.ContentSequence[0].ReferencedSOPSequence[0].ReferencedSOPInstanceUID)


def inferred(ds: Dataset, sources: Mapping[str, Dataset]) -> Iterator[tuple[str, str, float, float]]:
    """(instance, side, right, bottom) of the coordinates on images of our own that a side's number comes from."""
    for group in (i for i in walk(ds) if name(i) == "125007"):
        for item in walk(group):
            if item.ValueType == "SCOORD" and _on(item) not in sources:
                yield _on(item), _side(group), float(max(item.GraphicData[0::2])), float(max(item.GraphicData[1::2]))


def _examination(group: Dataset, side: SideResult) -> None:
    numbers = [i for i in group.ContentSequence if i.ValueType == "NUM"]
    silent = side.outcome is Outcome.INSUFFICIENT or side.probability is None
    need(len(numbers) == (0 if silent else 1), "probability", "count")
    for item in numbers:
        measured = item.MeasuredValueSequence[0]
        value = float(measured.NumericValue)
        unit = measured.MeasurementUnitsCodeSequence[0]
        need((unit.CodeValue, unit.CodingSchemeDesignator) == ("%", "UCUM"), "probability", "unit")
        need(name(item) == "122157" and 0 < value < 100, "probability", "range")  # no model knows 0 or 100 %
        meant = min(max(100 * float(side.probability or 0), 0.1), 99.9)
        need(abs(value - meant) <= 0.0501, "probability", "not the result's")
        need(bool(item.get("ContentSequence")), "sr tree", "a number without its coordinates")
    answers = [code(i) for i in group.ContentSequence if name(i) == "111301"]
    need(answers == [_ANSWERS[side.outcome]], "answer", "not the result's")


def _region(group: Dataset, side: str, result: CaseResult) -> None:
    outlines = [i for i in group.ContentSequence if i.ValueType == "SCOORD"]
    need(len(outlines) == 1 and name(outlines[0]) == "111030", "region", "a group without its one region")
    on = outlines[0].ContentSequence[0].ReferencedSOPSequence[0]
    where = (str(on.ReferencedSOPInstanceUID), int(on.get("ReferencedFrameNumber") or 1), side)
    need(bool(outlined_by(outlines[0].GraphicData, where, result)), "region", "not the result's")
    illustrations = [i for i in group.ContentSequence if name(i) == "121200"]
    need(len(illustrations) == 1, "region", "a group without its heat-map")
    need(not any(name(i) == "111301" and code(i) == _ABSENT for i in group.ContentSequence), "answer", "region")


def outlined_by(coordinates: Sequence[float], where: tuple[str, int, str], result: CaseResult) -> list[HeatImage]:
    """The images at `where` (instance, frame, side) whose region the closed outline x, y, x, y, ... is, to a pixel."""
    points = np.array(coordinates, float).reshape(-1, 2)[:-1, ::-1] - 0.5
    here = [i for i in result.images if (i.sources[0], i.frame_number, i.side.value) == where and i.region is not None]
    return [
        i
        for i in here
        if i.region is not None and len(i.region) == len(points) and bool((np.abs(points - i.region) <= 1).all())
    ]


def _silent(ds: Dataset, result: CaseResult, analysed: Mapping[str, SideResult]) -> None:
    """A side without an answer is said, and nothing outside the groups says present or absent."""
    evaluations = [i for i in ds.ContentSequence if name(i) == "C0034375"]
    need(len(evaluations) == 1, "sr tree", "qualitative evaluations")
    said = list(evaluations[0].ContentSequence)
    codes = [code(i) for i in said if i.ValueType == "CODE" and name(i) == "111301"]
    need(codes == [_UNDETERMINED] * (len(result.sides) - len(analysed)), "answer", "a side that was not analysed")
    _words([str(i.TextValue) for i in said if i.ValueType == "TEXT"], result)


def _words(said: Sequence[str], result: CaseResult) -> None:
    """The report in words, line by line what the reviewed table says of this result: many viewers show nothing else.

    The one place where the check asks what wrote the report: sentences can't be read back, only written again.
    """
    need(any(_says(said, result, language) for language in LANGUAGES), "words", "not what the result says")


def _says(said: Sequence[str], result: CaseResult, language: str) -> bool:
    sides = [line for side in result.sides for line in side_lines(result, side, language)]
    meant = [say("research", language), *sides, *limit_lines(result, language), *method_lines(result, language)]
    return list(said[: len(meant)]) == meant and len(said) <= len(meant) + 1  # one more: where else it is reported


def illustrated(ds: Dataset) -> Iterator[tuple[str, str]]:
    """(source instance that a region is on, capture that illustrates it) of every region."""
    for group in (i for i in walk(ds) if name(i) == "125007"):
        where = [i.ContentSequence[0] for i in group.ContentSequence if name(i) == "111030"]
        shown = [i for i in group.ContentSequence if name(i) == "121200"]
        for region, capture in zip(where, shown, strict=True):
            yield (
                str(region.ReferencedSOPSequence[0].ReferencedSOPInstanceUID),
                str(capture.ReferencedSOPSequence[0].ReferencedSOPInstanceUID),
            )
