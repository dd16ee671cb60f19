"""What every result object says about patient, study, series and origin, taken from the source study. Does no I/O.

Text of the patient and study is carried as bytes (see charset.py). Only listed attributes travel; private ones never.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from importlib.metadata import version

from pydicom.datadict import dictionary_VR
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as DicomSequence
from pydicom.sr.coding import Code
from pydicom.tag import BaseTag, Tag

from casework import config
from casework.errors import Defect
from casework.report import codes
from casework.report import uid as uids
from casework.report.charset import Charset
from casework.report.encode import Shared, frozen
from casework.result import CaseResult, HeatImage

PROGRAM_VERSION = version("casework")
TEXT_VRS = frozenset({"LO", "LT", "PN", "SH", "ST", "UC", "UT"})
_NUMBERS = frozenset({"US", "SS", "UL", "SL", "FL", "FD", "AT", "OW", "OF", "OD", "OL", "OV", "SV", "UV"})

# Type 2 attributes come first: they are written even when the source lacks them (PS3.3 C.7.1.1, C.7.2.1).
REQUIRED = [
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
CARRIED = [
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

    key: see uid.run_key. instances: every source of the result. reference: the data set whose patient and study they carry. images: (index in result.images, image) of the study.
    language: the one that its character set can say. common, captures: what their objects say alike, encoded. shared: items of several reports. lists: see capture.made_from.
    wanted: kinds of objects that are made beside reports and captures.
    """

    result: CaseResult
    settings: config.Report
    key: str
    sources: Mapping[str, Dataset]
    instances: Mapping[str, Instance]
    study: str
    reference: Dataset
    images: tuple[tuple[int, HeatImage], ...]
    charset: Charset
    language: str
    now: datetime
    common: Dataset
    captures: Dataset
    shared: Shared
    lists: Mapping[tuple[tuple[str, ...], int | None], Dataset]
    wanted: frozenset[str] = frozenset()

    @property
    def local(self) -> datetime:
        """The time of rendering as the study's own clock would show it (PS3.3 C.12.1.1.8)."""
        return local_time(self.reference, self.now)

    def say(self, text: str) -> str:
        """Our own text, proven to fit the study's character set: what does not fit must not become a question mark.

        Raises:
            ValueError: the set has no such character.
        """
        self.charset.encode(text)
        return text


def local_time(reference: Dataset, now: datetime) -> datetime:
    """Now, as the clock of the reference's study would show it (PS3.3 C.12.1.1.8)."""
    offset = str(reference.get("TimezoneOffsetFromUTC") or "").strip()
    if len(offset) == 5 and offset[0] in "+-" and offset[1:].isdigit():
        minutes = int(offset[1:3]) * 60 + int(offset[3:])
        return now.astimezone(timezone(timedelta(minutes=-minutes if offset[0] == "-" else minutes)))
    return now.astimezone()


def carry(target: Dataset, charset: Charset, source: Dataset, keyword: str) -> None:
    """Copy one attribute of a source, byte for byte where the character set is kept; nothing when it is absent."""
    tag = Tag(keyword)
    if tag in source:
        _carry(target, charset, source, tag, dictionary_VR(tag))


def _carry(target: Dataset, charset: Charset, source: Dataset, tag: BaseTag, vr: str) -> None:
    element = source.get_item(tag)
    if vr == "SQ":
        value = source[tag].value
        items = [item(charset, i) for i in value] if isinstance(value, DicomSequence) else []
        target[tag] = DataElement(tag, vr, DicomSequence(items))
    elif vr in TEXT_VRS and isinstance(element, RawDataElement | DataElement):
        target[tag] = _raw(tag, vr, charset.carried(element))
    elif isinstance(element, RawDataElement) and vr not in _NUMBERS:
        target[tag] = _raw(tag, vr, element.value or b"")
    else:
        target[tag] = DataElement(tag, vr, source[tag].value)


def _raw(tag: BaseTag, vr: str, value: bytes) -> RawDataElement:
    """An element that pydicom writes as it is."""
    value += b" " * (len(value) % 2)
    return RawDataElement(tag, vr, len(value), value, 0, is_implicit_VR=False, is_little_endian=True)


def item(charset: Charset, source: Dataset) -> Dataset:
    """A copy of a nested data set, without private elements."""
    copied = Dataset()
    for tag in sorted(source.keys()):
        if not tag.is_private:
            element = source.get_item(tag)
            _carry(copied, charset, source, tag, getattr(element, "VR", None) or source[tag].VR)
    return copied


def common(ctx: Context) -> Dataset:
    """What all objects of a study say of patient, study, time and equipment, once for all of them.

    Raises:
        Defect: RESULT_SELF_CHECK when the source's text can't be written.
    """
    ds = Dataset()
    for keyword in REQUIRED:
        setattr(ds, keyword, None)
    try:
        for keyword in (*REQUIRED, *CARRIED):
            carry(ds, ctx.charset, ctx.reference, keyword)
    except ValueError as error:
        raise Defect("RESULT_SELF_CHECK", f"charset: {error}") from error
    ds.InstanceCreationDate = ds.ContentDate = ds.SeriesDate = f"{ctx.local:%Y%m%d}"
    ds.InstanceCreationTime = ds.ContentTime = ds.SeriesTime = f"{ctx.local:%H%M%S}"
    _origin(ctx, ds)
    return frozen(ds, ctx.charset)


def start(ctx: Context, shared: Dataset, sop_class_uid: str, sop_instance_uid: str) -> Dataset:
    """A data set with patient, study and SOP common of the source study (PS3.3 C.7.1.1, C.7.2.1, C.7.2.2, C.12.1)."""
    ds = Dataset()
    if ctx.charset.terms:
        ds.SpecificCharacterSet = list(ctx.charset.terms)
    ds.update(shared)
    ds.SOPClassUID, ds.SOPInstanceUID = sop_class_uid, sop_instance_uid
    return ds


def series(ctx: Context, ds: Dataset, *, modality: str, uid: str, number: int, description: str, kind: Code) -> None:
    """The series of our own that the object goes into (PS3.3 C.7.3.1, C.17.1)."""
    ds.Modality, ds.SeriesInstanceUID, ds.SeriesNumber = modality, uid, number
    ds.SeriesDescription = ctx.say(description[:64])
    ds.SeriesDescriptionCodeSequence = [codes.concept(kind)]


def silent_object(ctx: Context, kind: str, sop_class: str, *, modality: str, number: int) -> Dataset:
    """The beginning of an object that says "AI not performed" of one study: identity and its own series, the reason in its name."""
    ds = start(ctx, ctx.common, sop_class, uids.instance_uid(ctx.key, ctx.study, kind, 1))
    series(
        ctx,
        ds,
        modality=modality,
        uid=uids.series_uid(ctx.key, ctx.study, kind),
        number=number,
        description=f"AI NOT PERFORMED: {ctx.result.stopped[0]}",
        kind=codes.REPORT,
    )
    return ds


def heat_object(ctx: Context, shared: Dataset, kind: str, number: int, *, what: str, modality: str = "OT") -> Dataset:
    """The beginning of a further object of one study that shows where the network looked: identity and its own series."""
    sop_class, series_number = uids.EXTRA[kind]
    ds = start(ctx, shared, sop_class, uids.instance_uid(ctx.key, ctx.study, kind, number))
    series(
        ctx,
        ds,
        modality=modality,
        uid=uids.series_uid(ctx.key, ctx.study, kind),
        number=series_number,
        description=f"AI {ctx.result.model.name} {what} - not for diagnosis",
        kind=codes.CLASS_ACTIVATION,
    )
    return ds


def content(ctx: Context, ds: Dataset, label: str, description: str) -> None:
    """Content Identification (PS3.3 10.9): the creator is the model, in letters that every character set has."""
    ds.ContentLabel, ds.ContentDescription = label, ctx.say(description[:64])
    ds.ContentCreatorName = ctx.say(f"{ctx.result.model.name}^AI"[:64])


def issued(ctx: Context) -> str:
    """Which revision of the case says this, and when: where only pictures are shown nothing else tells an older one."""
    replaces = ", replaces earlier results" if ctx.result.predecessors else ""
    return f"revision {ctx.result.revision}, {ctx.local:%Y-%m-%d %H:%M}{replaces}"


def software(ctx: Context) -> list[str]:
    """Program and model with their versions."""
    model = ctx.result.model
    return [
        ctx.say(s[:64])
        for s in (f"casework {PROGRAM_VERSION}", f"{model.name} {model.version}", ctx.result.model.engine)
    ]


def _origin(ctx: Context, ds: Dataset) -> None:
    """The equipment that made the object, and its contribution (PS3.3 C.7.5.1, C.7.5.2, C.12.1; IHE AIR)."""
    settings, model = ctx.settings, ctx.result.model
    for target in (ds, part := Dataset()):
        target.Manufacturer = own(ctx, settings.manufacturer, "casework")
        target.ManufacturerModelName = ctx.say(model.name[:64])
        target.SoftwareVersions = software(ctx)
        target.DeviceSerialNumber = ctx.say(settings.serial_number[:64])
        if settings.institution and ctx.charset.fits(settings.institution):
            target.InstitutionName = settings.institution[:64]
    part.PurposeOfReferenceCodeSequence = [codes.concept(codes.PROCESSING_EQUIPMENT)]
    part.ContributionDateTime = f"{ctx.local:%Y%m%d%H%M%S}"  # no zone: dcmtk's checker knows none
    part.ContributionDescription = "AI analysis. Research use, not a medical device."
    part.DeviceUID = model.device_uid
    ds.ContributingEquipmentSequence = [part]


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


def reference(instance: Instance, frame_number: int | None = None) -> Dataset:
    """A reference to an instance (PS3.3 10.8). A frame is named only in multi-frame images."""
    ds = Dataset()
    ds.ReferencedSOPClassUID, ds.ReferencedSOPInstanceUID = instance.sop_class, instance.uid
    if frame_number is not None and instance.frames > 1:
        ds.ReferencedFrameNumber = frame_number
    return ds


def hierarchy(ctx: Context, instances: Sequence[tuple[str, str, str, str]]) -> list[Dataset]:
    """References by study and series (PS3.3 10.3 Hierarchical SOP Instance Reference)."""
    studies: dict[str, dict[str, list[tuple[str, str]]]] = {}
    for study, series_uid, sop_class, instance in instances:
        studies.setdefault(study, {}).setdefault(series_uid, []).append((sop_class, instance))
    items = []
    for study, series in studies.items():
        item = Dataset()
        item.StudyInstanceUID = study
        item.ReferencedSeriesSequence = [_series(ctx, name, tuple(found)) for name, found in series.items()]
        items.append(item)
    return items


def _series(ctx: Context, series_uid: str, instances: tuple[tuple[str, str], ...]) -> Dataset:
    """One series with its instances: the same item in all reports of the case."""

    def make() -> list[Dataset]:
        item = Dataset()
        item.SeriesInstanceUID = series_uid
        item.ReferencedSOPSequence = [
            reference(Instance("", series_uid, sop_class, name, 1)) for sop_class, name in instances
        ]
        return [item]

    return ctx.shared.once((series_uid, instances), make, Charset())[0]
