"""What preprocessing needs to know of an instance: `InstanceFacts`, read from its header once, normalised. Does no I/O.

Rules: coded attributes only, never free text; a side that two attributes state differently is a conflict and no side;
what is absent stays absent (None or ""), nothing is guessed.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from casework import anatomy
from casework.preprocess.values import (
    age_years,
    code,
    datetime_seconds,
    items,
    nested,
    number,
    numbers,
    seconds,
    text,
    texts,
    whole,
)

_VIEWS: Mapping[str, str] = {  # PS3.16 CID 4014, SNOMED CT and SNOMED RT values
    "399162004": "CC", "R-10242": "CC", "399368009": "MLO", "R-10226": "MLO",
    "399260004": "ML", "R-10224": "ML", "399352003": "LM", "R-10228": "LM",
    "399099002": "LMO", "R-10230": "LMO", "399196006": "FB", "R-10244": "FB",
    "399188001": "SIO", "R-102D0": "SIO", "441555000": "ISO", "R-40AAA": "ISO",
    "399192008": "XCCL", "R-1024A": "XCCL", "399101009": "XCCM", "R-1024B": "XCCM",
}  # fmt: skip
_MODIFIERS: Mapping[str, str] = {  # PS3.16 CID 4015: views that show only a part of the breast, or not as it is
    "399163009": "magnification", "R-102D6": "magnification", "399055006": "spot", "R-102D7": "spot",
    "399209000": "implant displaced", "R-102D5": "implant displaced", "399110001": "tangential", "R-102C2": "tangential",
    "399011000": "axillary tail", "R-102D1": "axillary tail", "399161006": "cleavage", "R-102D2": "cleavage",
    "399226006": "rolled", "399197002": "rolled", "414493004": "rolled", "415670009": "rolled",
}  # fmt: skip
_KNOWN_VIEWS = frozenset(_VIEWS.values())
TOMOSYNTHESIS = "1.2.840.10008.5.1.4.1.1.13.1."  # volumes and projections (PS3.4 B.5)
_SYNTHETIC = frozenset(
    {
        "TOMOSYNTHESIS",
        "GENERATED_2D",
        "TOMO_2D",
        "TOMO2D",
        "C_VIEW",
        "CVIEW",
        "S_VIEW",
        "SVIEW",
        "V_PREVIEW",
        "VPREVIEW",
    }
    | {"INSIGHT_2D", "INSIGHT2D", "SYNTHESIZED_2D", "SYNTHETIC_2D", "SYNTHETIC", "SYNTHESIZED"}
)
_SIDE_WORDS = {"RIGHT": "R", "LEFT": "L", "BOTH": "B", "BILATERAL": "B"}  # in place of the letter
_SIDED_VIEWS = {side + view: (side, view) for side in "RL" for view in ("CC", "MLO")}
_SIDED_PART = {
    "RBREAST": "R", "RIGHTBREAST": "R", "BREASTR": "R", "BREASTRIGHT": "R",
    "LBREAST": "L", "LEFTBREAST": "L", "BREASTL": "L", "BREASTLEFT": "L",
}  # fmt: skip
_MAGNIFIED = 1.3  # contact views state up to about 1.1
_LATERALITY_CODES = {"24028007": "R", "G-A100": "R", "7771000": "L", "G-A101": "L", "51440002": "B", "G-A102": "B"}


@dataclass(frozen=True, slots=True)
class Window:
    """A linear or sigmoid VOI window, in units after the modality transformation."""

    center: float
    width: float


@dataclass(frozen=True, slots=True)
class Lut:
    """A VOI look-up table: `data` (N,) of `bits` bits, its first entry for input `first` (PS3.3 C.11.2)."""

    first: int
    bits: int
    data: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Region:
    """One item of the Sequence of Ultrasound Regions; corners inclusive, in pixels (PS3.3 C.8.5.5).

    mm_per_row and mm_per_col are None when the region is not calibrated as a length.
    """

    x0: int
    y0: int
    x1: int
    y1: int
    spatial_format: int  # 1 = 2D
    data_type: int  # 1 = tissue, 2 = colour flow
    mm_per_row: float | None
    mm_per_col: float | None


@dataclass(frozen=True, slots=True)
class FrameFacts:
    """What differs between the frames of a multi-frame MR; a classic slice has exactly one. LPS, mm, seconds."""

    position: tuple[float, ...]  # of the first pixel's centre; () when absent
    orientation: tuple[float, ...]  # row direction, column direction
    spacing_mm: tuple[float, ...]  # (between rows, between columns)
    temporal_position: int | None
    acquired_s: float | None
    trigger_ms: float | None
    slope: float
    intercept: float
    b_value: float | None
    contrast_phase: str  # "" | PRE_CONTRAST | POST_CONTRAST | ...


@dataclass(frozen=True, slots=True)
class InstanceFacts:
    """One instance, or every frame of it, as the preprocessing and the choice of images see it.

    laterality: "R", "L", "B" or "" (not stated, or stated in two ways: see laterality_conflict); view: "CC", "MLO", ...
    presentation: "FOR PRESENTATION", "FOR PROCESSING" or "". padding: (low, high) of padded stored values, or None.
    chest_wall: "left" or "right" edge as Patient Orientation says, "" when it doesn't.
    """

    sop_instance_uid: str
    sop_class_uid: str
    study_instance_uid: str
    series_instance_uid: str
    transfer_syntax_uid: str
    modality: str
    rows: int
    columns: int
    frame_count: int
    samples: int
    photometric: str
    bits_stored: int
    signed: bool
    laterality: str
    laterality_conflict: bool
    view: str
    view_conflict: bool
    view_modifiers: tuple[str, ...]
    presentation: str
    chest_wall: str
    windows: tuple[Window, ...]
    voi_function: str
    voi_luts: tuple[Lut, ...]
    slope: float
    intercept: float
    padding: tuple[int, int] | None
    spacing_mm: tuple[float, ...]  # Pixel Spacing, else Imager Pixel Spacing: (between rows, between columns)
    image_type: tuple[str, ...]
    instance_number: int
    series_number: int
    series_description: str
    acquisition_number: int
    temporal_positions: int
    contrast_agent: bool
    echo_time_ms: float | None
    repetition_time_ms: float | None
    scanning_sequence: tuple[str, ...]
    frames: tuple[FrameFacts, ...]  # MR only
    regions: tuple[Region, ...]  # US only
    frame_time_ms: float | None
    content_s: float | None
    study_date: str
    manufacturer: str
    implant: bool
    burned_in: str
    patient_birth_date: str
    patient_sex: str
    patient_age_years: float | None
    lossy: bool
    extra: Mapping[str, str] = field(default_factory=dict)
    patient_name: str = ""
    patient_id: str = ""
    frame_of_reference: str = ""
    synthetic: bool = False  # a two-dimensional mammogram computed from tomosynthesis
    breast: bool | None = None  # whether the header names breast or axilla as what is shown; None: it doesn't say

    @staticmethod
    def from_dataset(ds: Dataset) -> "InstanceFacts":
        """Read the facts of a data set (pixels not needed). Missing or malformed attributes become "" or None."""
        shared, per_frame = items(ds, "SharedFunctionalGroupsSequence"), items(ds, "PerFrameFunctionalGroupsSequence")
        groups = (*shared, *per_frame)
        laterality, side_conflict = _one(_sides(ds, groups))
        if {laterality, _medial(ds)} == {"R", "L"}:
            laterality, side_conflict = "", True
        view, view_conflict = _one(_views(ds))
        meta = getattr(ds, "file_meta", Dataset())
        modality = code(ds, "Modality")
        return InstanceFacts(
            sop_instance_uid=text(ds, "SOPInstanceUID"),
            sop_class_uid=text(ds, "SOPClassUID"),
            study_instance_uid=text(ds, "StudyInstanceUID"),
            series_instance_uid=text(ds, "SeriesInstanceUID"),
            transfer_syntax_uid=text(meta, "TransferSyntaxUID"),
            modality=modality,
            rows=whole(ds, "Rows"),
            columns=whole(ds, "Columns"),
            frame_count=max(1, whole(ds, "NumberOfFrames", 1)),
            samples=whole(ds, "SamplesPerPixel", 1),
            photometric=code(ds, "PhotometricInterpretation"),
            bits_stored=whole(ds, "BitsStored", 8),
            signed=whole(ds, "PixelRepresentation") == 1,
            laterality=laterality,
            laterality_conflict=side_conflict,
            view=view,
            view_conflict=view_conflict,
            view_modifiers=_modifiers(ds, groups),
            presentation=code(ds, "PresentationIntentType"),
            chest_wall=_chest_wall(ds, groups),
            windows=_windows(ds, groups),
            voi_function=code(ds, "VOILUTFunction") or "LINEAR",
            voi_luts=_luts(ds),
            slope=number(ds, "RescaleSlope") or 1.0,
            intercept=number(ds, "RescaleIntercept") or 0.0,
            padding=_padding(ds),
            spacing_mm=_spacing(ds, groups),
            image_type=tuple(v.upper() for v in texts(ds, "ImageType")),
            instance_number=whole(ds, "InstanceNumber"),
            series_number=whole(ds, "SeriesNumber"),
            series_description=text(ds, "SeriesDescription"),
            acquisition_number=whole(ds, "AcquisitionNumber"),
            temporal_positions=whole(ds, "NumberOfTemporalPositions"),
            contrast_agent=bool(text(ds, "ContrastBolusAgent") or items(ds, "ContrastBolusAgentSequence")),
            echo_time_ms=number(ds, "EchoTime"),
            repetition_time_ms=number(ds, "RepetitionTime"),
            scanning_sequence=texts(ds, "ScanningSequence"),
            frames=_frames(ds, shared, per_frame) if modality == "MR" else (),
            regions=tuple(_region(r) for r in items(ds, "SequenceOfUltrasoundRegions")),
            frame_time_ms=number(ds, "FrameTime"),
            content_s=seconds(text(ds, "ContentDate"), text(ds, "ContentTime")),
            study_date=text(ds, "StudyDate"),
            manufacturer=text(ds, "Manufacturer"),
            implant=code(ds, "BreastImplantPresent") == "YES",
            burned_in=code(ds, "BurnedInAnnotation"),
            patient_birth_date=_day(text(ds, "PatientBirthDate")),
            patient_sex=code(ds, "PatientSex"),
            patient_age_years=age_years(text(ds, "PatientAge"), text(ds, "PatientBirthDate"), text(ds, "StudyDate")),
            lossy=code(ds, "LossyImageCompression") == "01",
            patient_name=text(ds, "PatientName"),
            patient_id=text(ds, "PatientID"),
            frame_of_reference=text(ds, "FrameOfReferenceUID"),
            synthetic=_synthetic(ds),
            breast=_breast(ds, groups),
        )


def _day(value: str) -> str:
    """A date as its digits: the old form has points (PS3.5 6.2), others write strokes; zeros are none."""
    digits = "".join(c for c in value if c.isdigit())
    return digits if digits.strip("0") else ""


def _one(stated: Iterable[str]) -> tuple[str, bool]:
    """(the one value that all state, False), ("", False) for none, ("", True) for several."""
    values = {v for v in stated if v}
    return (values.pop(), False) if len(values) == 1 else ("", bool(values))


def _sides(ds: Dataset, groups: tuple[Dataset, ...]) -> Iterable[str]:
    """Every statement of a side: Image Laterality, Laterality, frame laterality, anatomic region modifiers."""
    found = [_SIDE_WORDS.get(v, v) for v in (code(ds, "ImageLaterality"), code(ds, "Laterality"))]
    found.append(_SIDED_VIEWS.get(code(ds, "ViewPosition"), ("", ""))[0])
    found.append(_SIDED_PART.get(code(ds, "BodyPartExamined").replace(" ", "").replace("_", ""), ""))
    for frame in nested(groups, "FrameAnatomySequence"):
        found.append(code(frame, "FrameLaterality"))
        found += _coded_sides(items(frame, "AnatomicRegionSequence"))
    found += _coded_sides([*items(ds, "AnatomicRegionSequence"), *items(ds, "PrimaryAnatomicStructureSequence")])
    return [v for v in found if v in {"R", "L", "B"}]


def _coded_sides(regions: Sequence[Dataset]) -> list[str]:
    """Of regions that name a breast themselves, and of their modifiers."""
    kinds = ("AnatomicRegionModifierSequence", "PrimaryAnatomicStructureModifierSequence")
    modifiers = [m for r in regions for kind in kinds for m in items(r, kind)]
    named = [anatomy.SIDES.get(text(r, "CodeValue"), "") for r in regions]
    return [*named, *(_LATERALITY_CODES.get(text(m, "CodeValue"), "") for m in modifiers)]


def _medial(ds: Dataset) -> str:
    """The side that a mammogram's downward direction tells: the middle of the body is at the bottom (IHE MAMMO).

    It states no side by itself, since an image may have been turned round. Of tomosynthesis, which is never read and which
    some vendors turn, it says nothing.
    """
    flat = whole(ds, "NumberOfFrames", 1) <= 1 and not text(ds, "SOPClassUID").startswith(TOMOSYNTHESIS)
    down = texts(ds, "PatientOrientation") if flat and code(ds, "Modality") == "MG" else ()
    letters = set(down[1].upper()) & {"L", "R"} if len(down) == 2 else set()
    return {"L": "R", "R": "L"}[letters.pop()] if len(letters) == 1 else ""


def _views(ds: Dataset) -> Iterable[str]:
    """Every statement of a view; CBIS-DDSM writes it in Patient Orientation."""
    found = [
        _SIDED_VIEWS.get(code(ds, "ViewPosition"), ("", code(ds, "ViewPosition")))[1],
        code(ds, "PatientOrientation"),
    ]
    found += [_VIEWS.get(text(v, "CodeValue"), "") for v in items(ds, "ViewCodeSequence")]
    return [v for v in found if v in _KNOWN_VIEWS]


def _synthetic(ds: Dataset) -> bool:
    """Whether one frame was computed from tomosynthesis: by Image Type (C-View, S-View, V-Preview, Insight 2D), or by its source.

    Image Type value 3 TOMOSYNTHESIS with value 4 GENERATED_2D is PS3.3 C.8.31.1's; vendors have their own words.
    """
    if whole(ds, "NumberOfFrames", 1) > 1 or text(ds, "SOPClassUID").startswith(TOMOSYNTHESIS):
        return False
    kinds = {v.upper().replace("-", "_").replace(" ", "_") for v in texts(ds, "ImageType")[2:]}
    sources = [text(s, "ReferencedSOPClassUID") for s in items(ds, "SourceImageSequence")]
    return bool(kinds & _SYNTHETIC) or any(s.startswith(TOMOSYNTHESIS) for s in sources)


def _breast(ds: Dataset, groups: tuple[Dataset, ...]) -> bool | None:
    """What Body Part Examined and the anatomic region say; breast MRI is often labelled as chest."""
    regions = [*items(ds, "AnatomicRegionSequence")]
    for frame in nested(groups, "FrameAnatomySequence"):
        regions += items(frame, "AnatomicRegionSequence")
    codes = {text(r, "CodeValue") for r in regions}
    return True if code(ds, "Modality") == "MG" else anatomy.of_breast(code(ds, "BodyPartExamined"), codes)


def _modifiers(ds: Dataset, groups: tuple[Dataset, ...]) -> tuple[str, ...]:
    views = [*items(ds, "ViewCodeSequence"), *nested(groups, "ViewCodeSequence")]
    modifiers = [text(m, "CodeValue") for v in views for m in items(v, "ViewModifierCodeSequence")]
    said = [_MODIFIERS.get(m, "") for m in modifiers]
    said.append("partial" if code(ds, "PartialView") == "YES" else "")
    said.append("quality control" if code(ds, "QualityControlImage") == "YES" else "")
    said.append("magnification" if (number(ds, "EstimatedRadiographicMagnificationFactor") or 1.0) > _MAGNIFIED else "")
    return tuple(sorted({v for v in said if v}))


def _chest_wall(ds: Dataset, groups: tuple[Dataset, ...]) -> str:
    """Patient Orientation's row direction: A = columns run anteriorly, so the chest wall is at the left edge."""
    row = texts(ds, "PatientOrientation")
    for frame in nested(groups, "PatientOrientationInFrameSequence"):
        row = row or texts(frame, "PatientOrientation")
    return {"A": "left", "P": "right"}.get(row[0][:1].upper(), "") if len(row) == 2 else ""


def _windows(ds: Dataset, groups: tuple[Dataset, ...]) -> tuple[Window, ...]:
    for source in (ds, *nested(groups, "FrameVOILUTSequence")):
        pairs = zip(numbers(source, "WindowCenter"), numbers(source, "WindowWidth"), strict=False)
        found = tuple(Window(c, w) for c, w in pairs if w > 0)
        if found:
            return found
    return ()


def _luts(ds: Dataset) -> tuple[Lut, ...]:
    out = []
    for entry in items(ds, "VOILUTSequence"):
        descriptor, data = numbers(entry, "LUTDescriptor", 3), _lut_data(entry)
        if descriptor and data is not None and data.size > 1:
            first = int(descriptor[1])
            # Pixel Representation 1 makes the first value signed, but pydicom may read it as unsigned (PS3.3 C.11.2.1.1).
            signed = first - 65536 if whole(ds, "PixelRepresentation") == 1 and first > 32767 else first
            out.append(Lut(signed, int(descriptor[2]), data))
    return tuple(out)


def _lut_data(entry: Dataset) -> NDArray[np.float32] | None:
    value = entry.get("LUTData")
    if isinstance(value, bytes):
        return np.frombuffer(value[: len(value) // 2 * 2], "<u2").astype(np.float32)
    found = numbers(entry, "LUTData")
    return np.array(found, np.float32) if found else None


def _padding(ds: Dataset) -> tuple[int, int] | None:
    value = number(ds, "PixelPaddingValue")
    if value is None:
        return None
    limit = number(ds, "PixelPaddingRangeLimit")
    ends = sorted((int(value), int(value if limit is None else limit)))
    return ends[0], ends[1]


def _spacing(ds: Dataset, groups: tuple[Dataset, ...]) -> tuple[float, ...]:
    for source in (ds, *nested(groups, "PixelMeasuresSequence")):
        for keyword in ("PixelSpacing", "ImagerPixelSpacing"):
            found = numbers(source, keyword, 2)
            if found and min(found) > 0:
                return found
    return ()


def _region(r: Dataset) -> Region:
    """One ultrasound region; Physical Units 3 = cm (PS3.3 C.8.5.5.1.15)."""
    dy, dx = number(r, "PhysicalDeltaY"), number(r, "PhysicalDeltaX")
    cm = whole(r, "PhysicalUnitsXDirection") == 3 and whole(r, "PhysicalUnitsYDirection") == 3
    return Region(
        x0=whole(r, "RegionLocationMinX0"),
        y0=whole(r, "RegionLocationMinY0"),
        x1=whole(r, "RegionLocationMaxX1"),
        y1=whole(r, "RegionLocationMaxY1"),
        spatial_format=whole(r, "RegionSpatialFormat"),
        data_type=whole(r, "RegionDataType"),
        mm_per_row=abs(dy) * 10 if cm and dy else None,
        mm_per_col=abs(dx) * 10 if cm and dx else None,
    )


def _frames(ds: Dataset, shared: Iterable[Dataset], per_frame: Iterable[Dataset]) -> tuple[FrameFacts, ...]:
    """The planes of a classic slice (one) or of every frame of an Enhanced MR (PS3.3 C.8.13, C.7.6.16)."""
    per = list(per_frame)
    if not per:
        return (_frame(ds, Dataset(), Dataset()),)
    common = next(iter(shared), Dataset())
    return tuple(_frame(ds, common, own) for own in per)


def _frame(ds: Dataset, shared: Dataset, own: Dataset) -> FrameFacts:
    def of(macro: str) -> Dataset:
        """The macro's item: per frame, else shared, else the attributes of the data set itself."""
        for group in (own, shared):
            found = items(group, macro)
            if found:
                return found[0]
        return ds

    content, values = of("FrameContentSequence"), of("PixelValueTransformationSequence")
    diffusion = of("MRDiffusionSequence")
    return FrameFacts(
        position=numbers(of("PlanePositionSequence"), "ImagePositionPatient", 3),
        orientation=numbers(of("PlaneOrientationSequence"), "ImageOrientationPatient", 6),
        spacing_mm=numbers(of("PixelMeasuresSequence"), "PixelSpacing", 2),
        temporal_position=_temporal(content),
        acquired_s=_acquired(ds, content),
        trigger_ms=_trigger(ds, of("CardiacSynchronizationSequence")),
        slope=number(values, "RescaleSlope") or 1.0,
        intercept=number(values, "RescaleIntercept") or 0.0,
        b_value=number(diffusion, "DiffusionBValue"),
        contrast_phase=code(of("ContrastBolusUsageSequence"), "ContrastBolusAgentPhase"),
    )


def _temporal(content: Dataset) -> int | None:
    for keyword in ("TemporalPositionIndex", "TemporalPositionIdentifier"):
        value = number(content, keyword)
        if value is not None:
            return int(value)
    return None


def _trigger(ds: Dataset, cardiac: Dataset) -> float | None:
    value = number(cardiac, "NominalCardiacTriggerDelayTime")
    return number(ds, "TriggerTime") if value is None else value


def _acquired(ds: Dataset, content: Dataset) -> float | None:
    """The acquisition's start: of the frame, else of the instance, else its content time."""
    for value in (text(content, "FrameAcquisitionDateTime"), text(ds, "AcquisitionDateTime")):
        found = datetime_seconds(value)
        if found is not None:
            return found
    day = text(ds, "AcquisitionDate") or text(ds, "ContentDate") or text(ds, "StudyDate")
    found = seconds(day, text(ds, "AcquisitionTime"))
    return found if found is not None else seconds(text(ds, "ContentDate") or day, text(ds, "ContentTime"))
