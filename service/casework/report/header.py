"""What every result object says about patient, study, series and origin, taken from the source study. Does no I/O.

Text of the patient and study is carried as bytes (see charset.py). Only listed attributes travel; private ones never.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from importlib.metadata import version

from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.sequence import Sequence as DicomSequence
from pydicom.tag import BaseTag, Tag

from casework import config
from casework.errors import Defect
from casework.report import codes
from casework.report.charset import Charset
from casework.report.wire import TEXT_VRS, Block, tag_and_vr
from casework.result import CaseResult, HeatImage

PROGRAM_VERSION = version("casework")

# Type 2 attributes come first: they are written even when the source lacks them (PS3.3 C.7.1.1, C.7.2.1).
_REQUIRED = [
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "StudyInstanceUID",
    "StudyDate",
    "StudyTime",
    "StudyID",
    "AccessionNumber",
    "ReferringPhysicianName",
]
_CARRIED = [
    "IssuerOfPatientID",
    "IssuerOfPatientIDQualifiersSequence",
    "OtherPatientIDs",
    "OtherPatientIDsSequence",
    "OtherPatientNames",
    "PatientBirthTime",
    "EthnicGroup",
    "PatientIdentityRemoved",
    "DeidentificationMethod",
    "DeidentificationMethodCodeSequence",
    "LongitudinalTemporalInformationModified",
    "PatientAge",
    "PatientSize",
    "PatientWeight",
    "IssuerOfAccessionNumberSequence",
    "StudyDescription",
    "ProcedureCodeSequence",
    "TimezoneOffsetFromUTC",
    "ClinicalTrialSponsorName",
    "ClinicalTrialProtocolID",
    "ClinicalTrialProtocolName",
    "ClinicalTrialSiteID",
    "ClinicalTrialSiteName",
    "ClinicalTrialSubjectID",
    "ClinicalTrialSubjectReadingID",
    "ClinicalTrialTimePointID",
]


@dataclass(frozen=True, slots=True)
class Instance:
    """A source as others refer to it."""

    study: str
    series: str
    sop_class: str
    uid: str
    frames: int


@dataclass(frozen=True, slots=True)
class Context:
    """What the objects of one study share while they are rendered.

    instances: every source of the result. reference: the data set whose patient and study they carry. images: (index in result.images, image) of the study.
    language: the one that its character set can say.
    """

    result: CaseResult
    settings: config.Report
    sources: Mapping[str, Dataset]
    instances: Mapping[str, Instance]
    study: str
    reference: Dataset
    images: tuple[tuple[int, HeatImage], ...]
    charset: Charset
    language: str
    now: datetime

    @property
    def local(self) -> datetime:
        """The time of rendering as the study's own clock would show it (PS3.3 C.12.1.1.8)."""
        offset = str(self.reference.get("TimezoneOffsetFromUTC") or "").strip()
        if len(offset) == 5 and offset[0] in "+-" and offset[1:].isdigit():
            minutes = int(offset[1:3]) * 60 + int(offset[3:])
            return self.now.astimezone(timezone(timedelta(minutes=-minutes if offset[0] == "-" else minutes)))
        return self.now.astimezone()

    def block(self, **values: str | int | Sequence[str] | None) -> Block:
        """An empty block in this study's character set."""
        return Block(self.charset, **values)


def carry(block: Block, source: Dataset, keyword: str) -> None:
    """Copy one attribute of a source, byte for byte where the character set is kept; nothing when it is absent."""
    tag, vr = tag_and_vr(keyword)
    if tag not in source:
        return
    data = _carried(block.charset, source, Tag(tag), vr)
    if data is not None:
        block.put_bytes(tag, vr, data)


def _carried(charset: Charset, source: Dataset, tag: BaseTag, vr: str) -> bytes | None:
    """An element's value field in Explicit VR Little Endian, or None where it can't be carried."""
    element = source.get_item(tag)
    if vr == "SQ":
        value = source[tag].value
        return b"".join(item(charset, i) for i in value) if isinstance(value, DicomSequence) else b""
    if vr in TEXT_VRS and isinstance(element, RawDataElement | DataElement):
        return charset.carried(element)
    block = Block(charset)
    if isinstance(element, RawDataElement) and vr not in ("US", "SS", "UL", "SL", "FL", "FD"):
        return element.value or b""
    value = source[tag].value
    try:
        return block.encode_value(tag.json_key, vr, list(value) if isinstance(value, MultiValue) else value)
    except (TypeError, ValueError, UnicodeEncodeError):
        return None


def item(charset: Charset, source: Dataset) -> bytes:
    """A nested data set, without private elements."""
    block = Block(charset)
    for tag in sorted(source.keys()):
        if tag.is_private:
            continue
        element = source.get_item(tag)
        vr = getattr(element, "VR", None) or source[tag].VR
        data = _carried(charset, source, tag, vr)
        if data is not None:
            block.put_bytes(tag, vr, data)
    return block.item()


def identity(ctx: Context, sop_class_uid: str, sop_instance_uid: str) -> Block:
    """A block with patient, study and SOP common of the source study (PS3.3 C.7.1.1, C.7.2.1, C.7.2.2, C.12.1)."""
    block = ctx.block(
        SOPClassUID=sop_class_uid,
        SOPInstanceUID=sop_instance_uid,
        InstanceCreationDate=f"{ctx.local:%Y%m%d}",
        InstanceCreationTime=f"{ctx.local:%H%M%S}",
        ContentDate=f"{ctx.local:%Y%m%d}",
        ContentTime=f"{ctx.local:%H%M%S}",
    )
    if ctx.charset.terms:
        block.put("SpecificCharacterSet", ctx.charset.terms)
    for keyword in _REQUIRED:
        block.put(keyword, None)
    try:
        for keyword in (*_REQUIRED, *_CARRIED):
            carry(block, ctx.reference, keyword)
    except ValueError as error:
        raise Defect("RESULT_SELF_CHECK", f"charset: {error}") from error
    return block


def series(
    ctx: Context, block: Block, *, modality: str, uid: str, number: int, description: str, kind: codes.Code
) -> None:
    """The series of our own that the object goes into (PS3.3 C.7.3.1, C.17.1)."""
    block.put("Modality", modality)
    block.put("SeriesInstanceUID", uid)
    block.put("SeriesNumber", number)
    block.put("SeriesDate", f"{ctx.local:%Y%m%d}")
    block.put("SeriesTime", f"{ctx.local:%H%M%S}")
    block.put("SeriesDescription", description[:64])
    block.put("SeriesDescriptionCodeSequence", codes.code_item(kind))


def software(ctx: Context) -> list[str]:
    """Program and model with their versions."""
    model = ctx.result.model
    return [f"casework {PROGRAM_VERSION}"[:64], f"{model.name} {model.version}"[:64], ctx.result.model.engine[:64]]


def origin(ctx: Context, block: Block) -> None:
    """The equipment that made the object, and its contribution (PS3.3 C.7.5.1, C.7.5.2, C.12.1; IHE AIR)."""
    settings, model = ctx.settings, ctx.result.model
    for target in (block, part := ctx.block()):
        target.put("Manufacturer", own(ctx, settings.manufacturer, "casework"))
        target.put("ManufacturerModelName", model.name[:64])
        target.put("SoftwareVersions", software(ctx))
        target.put("DeviceSerialNumber", settings.serial_number[:64])
        if settings.institution and ctx.charset.fits(settings.institution):
            target.put("InstitutionName", settings.institution[:64])
    part.put("PurposeOfReferenceCodeSequence", codes.code_item(codes.PROCESSING_EQUIPMENT))
    part.put("ContributionDateTime", f"{ctx.now:%Y%m%d%H%M%S}+0000")
    part.put("ContributionDescription", "AI analysis. Research use, not a medical device.")
    part.put("DeviceUID", model.device_uid)
    block.put("ContributingEquipmentSequence", part.item())


def own(ctx: Context, text: str, fallback: str) -> str:
    """One of our own short texts, or its ASCII stand-in where the source's set can't say it."""
    return text[:64] if ctx.charset.fits(text[:64]) else fallback


def instances(result: CaseResult, sources: Mapping[str, Dataset]) -> dict[str, Instance]:
    """The sources of all images by SOP Instance UID, read once: lists of references are long."""
    return {
        uid: Instance(
            study=str(source.StudyInstanceUID),
            series=str(source.SeriesInstanceUID),
            sop_class=str(source.SOPClassUID),
            uid=uid,
            frames=int(source.get("NumberOfFrames") or 1),
        )
        for uid in dict.fromkeys(u for i in result.images for u in i.sources)
        for source in (sources[uid],)
    }


def reference(instance: Instance, frame_number: int | None = None) -> tuple[tuple[str, str], ...]:
    """The pairs of a reference to an instance, for `wire.flat_item`. A frame is named only in multi-frame images."""
    pairs = (("ReferencedSOPClassUID", instance.sop_class), ("ReferencedSOPInstanceUID", instance.uid))
    if frame_number is not None and instance.frames > 1:
        return (*pairs, ("ReferencedFrameNumber", str(frame_number)))
    return pairs
