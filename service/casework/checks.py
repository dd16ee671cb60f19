"""The input gate as data: what is looked at before and beside an analysis, and what each finding leads to. Does no I/O.

A check passes, warns (the analysis runs and its report says so) or stops (nothing is analysed, and the studies are told).
A site may make a check stricter or milder by [gate] severity, but for those that are `fixed`: they keep a wrong side or a
wrong patient from ever getting an answer. What can't be measured is "not available", never a pass. docs/gate.md is
generated from this table.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from casework.errors import Defect


class Severity(StrEnum):
    """What a check comes to."""

    PASS = "pass"  # noqa: S105 - not a password
    WARN = "warn"
    STOP = "stop"
    NOT_AVAILABLE = "not_available"


@dataclass(frozen=True, slots=True)
class Row:
    """One check. code: a row of casework.reasons; covers: findings that count for it, () = its own code only."""

    code: str
    looks_at: str
    severity: Severity
    fixed: bool = False
    covers: tuple[str, ...] = ()

    @property
    def codes(self) -> tuple[str, ...]:
        """The findings that count for this check."""
        return self.covers or (self.code,)


_S, _W = Severity.STOP, Severity.WARN
_UNREADABLE = (
    "PIXELS_UNDECODABLE", "DECODER_CRASHED", "DIMENSIONS_TOO_LARGE", "HEADER_MALFORMED",
    "TRANSFER_SYNTAX_NOT_ACCEPTED", "TRUNCATED",
)  # fmt: skip

# fmt: off
ROWS: tuple[Row, ...] = (  # the gravest first: the first one that stops is the case's reason
    Row("PATIENT_IDENTITY_CONFLICT", "birth date, sex and name of all images under one Patient ID", _S, fixed=True),
    Row("LATERALITY_CONFLICT", "Image Laterality, Laterality, frame laterality, the anatomic region and its modifier of each image, and which way a mammogram's Patient Orientation has the middle of the body", _S, fixed=True),
    Row("SIDE_PIXELS_CONFLICT", "the edge at which the breast leaves a mammogram, against its Patient Orientation and its side together (breast at one edge at least 1.5 times as tall as at the other)", _S, fixed=True),
    Row("NO_USABLE_IMAGE", "whether any side has the modalities that the model's manifest requires", _S, fixed=True),
    Row("IMPLANT_PRESENT", "Breast Implant Present and implant-displaced views, unless the manifest says that training had implants", _S),
    Row("INPUT_UNUSUAL", "distance of each modality's pooled features to those of the training images (reference.npz of the package)", _W),
    Row("NAMES_DIFFER", "Patient's Names that share no part, or no given name, under one Patient ID", _W),
    Row("BODY_PART_OTHER", "Body Part Examined and anatomic region of ultrasound and MR images: what names another part than the breast is left out", _W),
    Row("ORIENTATION_UNEXPECTED", "the edge at which the breast leaves a mammogram, against Patient Orientation and the usual edge of its side", _W),
    Row("VIEW_CONFLICT", "View Position and View Code Sequence of each mammogram", _W),
    Row("LATERALITY_UNKNOWN", "whether each mammogram and ultrasound image states one side", _W),
    Row("VIEW_UNKNOWN", "whether each mammogram states a view", _W),
    Row("MODALITY_MISSING", "mammography, MRI and ultrasound of each side", _W),
    Row("MR_SIDE_NOT_READ", "dynamic series of the other breast beside the one that is read", _W),
    Row("VIEW_MISSING", "CC and MLO of each side that has a mammogram", _W),
    Row("ONLY_FOR_PROCESSING", "Presentation Intent Type and SOP class: raw mammograms without a twin for presentation", _W),
    Row("SYNTHETIC_USED", "Image Type and Series: two-dimensional mammograms that were computed from tomosynthesis", _W),
    Row("SYNTHETIC_ONLY", "views of which there is only an image that was computed from tomosynthesis, or the tomosynthesis itself", _W),
    Row("SCREEN_COPY", "Secondary Capture, burned-in annotation and pictures of text: screen copies and report pages without an image", _W),
    Row("PHASES_INCOMPLETE", "MR frames by position, time, echo and b-value: at least three whole contrast phases, the first before contrast", _W),
    Row("CONTRAST_NOT_SEEN", "largest rises and falls of the signal after the first phase", _W),
    Row("SIDES_UNCERTAIN", "width and place of the body in the MRI, and the laterality stated", _W),
    Row("MOTION_SEEN", "shift between the first phase and the others by phase correlation of three planes; found above 4 mm", _W),
    Row("GEOMETRY_IRREGULAR", "positions of MR slices: gaps, repeats", _W),
    Row("CLIPPED", "share of an image's tissue at the end of its grey scale; found above 5 % (mammography), 2 % (MRI), 10 % (ultrasound)", _W),
    Row("SPACING_UNUSUAL", "pixel spacing of mammograms and spacing of MR planes against the range in training", _W),
    Row("SEVERAL_DAYS", "study dates of the images of one modality", _W),
    Row("DAYS_APART", "study dates of all images that are read; found when the first and the last are more than a month apart", _W),
    Row("SCANNER_UNKNOWN", "Manufacturer of the images used against those in training", _W),
    Row("AGE_OUTSIDE", "Patient's Age at the study against the range in training", _W),
    Row("SEX_OUTSIDE", "Patient's Sex against those in training", _W),
    Row("REGION_UNCALIBRATED", "Sequence of Ultrasound Regions", _W),
    Row("IMAGE_BLANK", "whether tissue is found in an image", _W),
    Row("PIXELS_UNDECODABLE", "decoding of each image", _W, covers=_UNREADABLE),
    Row("COUNT_INCOMPLETE", "images received against the count that the PACS gives", _W),
    Row("UID_CONFLICT", "images that were kept aside at intake, or taken out by a person", _W),
)
# fmt: on

CONFLICTS = frozenset({"PATIENT_IDENTITY_CONFLICT", "LATERALITY_CONFLICT", "SIDE_PIXELS_CONFLICT"})
"""Stops that a person has to settle: the case needs attention, it is not merely rejected."""
CHECKS: Mapping[str, Row] = {row.code: row for row in ROWS}


def severities(overrides: Iterable[str]) -> Mapping[str, Severity]:
    """The severity of every check that found something. overrides: "CODE=warn" or "CODE=stop".

    Raises:
        Defect: CONFIG_INVALID, naming what is unknown or would weaken a check that is fixed.
    """
    chosen = {row.code: row.severity for row in ROWS}
    for override in overrides:
        code, _, wanted = override.partition("=")
        row = CHECKS.get(code.strip())
        if row is None or wanted.strip() not in (Severity.WARN, Severity.STOP):
            raise Defect(
                "CONFIG_INVALID", f"gate.severity {override!r}: expected CODE=warn or CODE=stop, CODE of docs/gate.md"
            )
        if row.fixed and wanted.strip() != Severity.STOP:
            raise Defect("CONFIG_INVALID", f"gate.severity {override!r}: this check can't be weakened")
        chosen[row.code] = Severity(wanted.strip())
    return chosen
