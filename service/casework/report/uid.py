"""Identifiers of results: the same analysis gives the same UIDs, whoever renders it and however often. Does no I/O."""

from collections.abc import Iterable
from urllib.parse import quote

from casework import config
from casework.case import derive_uid
from casework.result import CaseResult, HeatImage, Side

SR_CLASS = "1.2.840.10008.5.1.4.1.1.88.34"  # Comprehensive 3D SR
SC_CLASS = "1.2.840.10008.5.1.4.1.1.7"  # Secondary Capture
TEXT_CLASS = "1.2.840.10008.5.1.4.1.1.88.11"  # Basic Text SR
SR_SERIES_NUMBER = 9001
SC_SERIES_NUMBER = 9002
NOT_PERFORMED_SERIES_NUMBER = 9009
NOT_PERFORMED_PAGE_SERIES_NUMBER = 9011
# Kind of object: SOP class, Series Number.
EXTRA = {
    "sr-comprehensive": ("1.2.840.10008.5.1.4.1.1.88.33", 9003),
    "cine": ("1.2.840.10008.5.1.4.1.1.7.4", 9004),
    "parametric-map": ("1.2.840.10008.5.1.4.1.1.30", 9005),
    "segmentation": ("1.2.840.10008.5.1.4.1.1.66.4", 9006),
    "outline": ("1.2.840.10008.5.1.4.1.1.11.1", 9007),
    "key-object": ("1.2.840.10008.5.1.4.1.1.88.59", 9008),
    "slices": ("1.2.840.10008.5.1.4.1.1.7.4", 9012),
    "segmentation-planar": ("1.2.840.10008.5.1.4.1.1.66.4", 9013),
}


def run_key(result: CaseResult, settings: config.Report, program_version: str, wanted: Iterable[str] = ()) -> str:
    """What series and instances of one run derive from: the analysis, and all that its documents say beside it.

    Other words, or a report that names other objects, under the same UID would be two objects with one name, and
    archives disagree on which they keep.
    """
    said = [settings.language, settings.institution, settings.manufacturer, settings.serial_number, program_version]
    said += sorted(set(wanted) - {"sr", "capture"})
    return "|".join((result.input_digest, *(quote(word) for word in said)))


def series_uid(key: str, study: str, kind: str) -> str:
    """The series of one kind of object in one study. `key` as `run_key` gives it."""
    return derive_uid("series", kind, key, study)


def instance_uid(key: str, study: str, kind: str, index: int) -> str:
    """One object; `index` counts from 1 in its series."""
    return derive_uid("instance", kind, key, study, str(index))


def tracking_uid(result: CaseResult, side: Side) -> str:
    """The axilla of one side, through all revisions of a case (IHE AIR: stable for the same finding)."""
    return derive_uid("tracking", result.case_id, side.value)


def region_tracking_uid(result: CaseResult, image: HeatImage) -> str:
    """The hottest area of one image, through all revisions of a case."""
    return derive_uid(
        "tracking", result.case_id, image.side.value, image.sources[0], str(image.frame_number), image.view
    )
