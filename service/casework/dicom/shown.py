"""What one image of a series says of the part of the body that it shows, where its PACS' index is silent. Owns nothing.

Asked by WADO-RS metadata or by C-FIND at image level: protocol, coil, order and anatomic region are filled in by scanners
where a description is not. The answer is the PACS's word; it is bounded, and read as text only.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from casework.dicom.query import DimseQuestions, WebQuestions
from casework.errors import CaseworkError

_TELLING = (
    "BodyPartExamined",
    "AnatomicRegionSequence",
    "ProtocolName",
    "SeriesDescription",
    "StudyDescription",
    "ReceiveCoilName",
    "MRReceiveCoilSequence",
    "RequestedProcedureDescription",
    "PerformedProcedureStepDescription",
    "RequestAttributesSequence",
    "ProcedureCodeSequence",
    "RequestedProcedureCodeSequence",
)
_INSIDE = frozenset(  # Code Value, Code Meaning, Long Code Value, coil's name and description, what was asked for and planned
    {"00080100", "00080104", "00080119", "00181250", "00189043", "00189045", "00321060", "00400007", "00321064", "00400008"}
)  # fmt: skip
_WORDS, _LETTERS, _DEEP = 200, 200, 4


def said(
    web: WebQuestions | None, dimse: DimseQuestions | None, study_uid: str, series_uid: str
) -> dict[str, list[str]]:
    """By keyword: the texts and codes of one image of a series; empty when the PACS doesn't say."""
    source = web or dimse
    try:
        uids = source.held(study_uid, series_uid) if source is not None else []
        if not uids:
            return {}
        # Not the first: that is where localizers and the first cut of a stack lie.
        found = (
            source.image(study_uid, series_uid, sorted(uids)[len(uids) // 2], _TELLING) if source is not None else {}
        )
    except CaseworkError:
        return {}  # a PACS that can't be asked for this is asked for nothing more, and what it said before stands
    return {keyword: words for keyword, element in found.items() if (words := list(_texts(element, _DEEP))[:_WORDS])}


def _texts(element: Any, deep: int) -> Iterator[str]:
    """All texts of one element of the DICOM JSON model (PS3.18 F.2)."""
    values = element.get("Value") if isinstance(element, Mapping) else None
    for value in values if isinstance(values, list) else []:
        if isinstance(value, str):
            yield value.strip()[:_LETTERS]
        elif isinstance(value, Mapping) and deep:
            for tag, inner in value.items():
                if tag in _INSIDE:
                    yield from _texts(inner, deep - 1)
