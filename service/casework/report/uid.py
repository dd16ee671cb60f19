"""Identifiers of results: the same analysis gives the same UIDs, whoever renders it and however often. Does no I/O."""

from casework.case import derive_uid
from casework.result import CaseResult, HeatImage, Side

SR_CLASS = "1.2.840.10008.5.1.4.1.1.88.34"  # Comprehensive 3D SR
SC_CLASS = "1.2.840.10008.5.1.4.1.1.7"  # Secondary Capture
SR_SERIES_NUMBER = 9001
SC_SERIES_NUMBER = 9002


def series_uid(result: CaseResult, study: str, kind: str) -> str:
    """The series of one kind of object in one study."""
    return derive_uid("series", kind, result.input_digest, study)


def instance_uid(result: CaseResult, study: str, kind: str, index: int) -> str:
    """One object; `index` counts from 1 in its series."""
    return derive_uid("instance", kind, result.input_digest, study, str(index))


def tracking_uid(result: CaseResult, side: Side) -> str:
    """The axilla of one side, through all revisions of a case (IHE AIR: stable for the same finding)."""
    return derive_uid("tracking", result.case_id, side.value)


def region_tracking_uid(result: CaseResult, image: HeatImage) -> str:
    """The hottest area of one image, through all revisions of a case."""
    return derive_uid(
        "tracking", result.case_id, image.side.value, image.sources[0], str(image.frame_number), image.view
    )
