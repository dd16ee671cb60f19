"""Simulated patients for `python -m tests.bench.cases`: who they are, what is sent in whose name, and what is true. No I/O.

An image is a header, the facts that the choice of images looks at, and a digest; it has no pixels. `person` and
`true_side` are the truth, which the service never sees; everything else is what a sender states.
"""

import hashlib
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import cache

from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence as Items
from pydicom.uid import ExplicitVRLittleEndian

from casework.case import Arrival, Header, Verdict
from casework.preprocess.facts import InstanceFacts

MG, US, MR = "1.2.840.10008.5.1.4.1.1.1.2", "1.2.840.10008.5.1.4.1.1.6.1", "1.2.840.10008.5.1.4.1.1.4"
PHASES, SLICES = 3, 4  # the fewest that make a dynamic series
KINDS = {  # what happens to a patient, and how often
    "plain": 38, "unilateral": 12, "two modalities": 10, "late": 10, "wrong side": 7, "two sides stated": 3,
    "corrected": 6, "foreign image": 5, "somebody else's image": 4, "ID corrected": 5, "issuer left out": 5,
    "namesake": 5, "no ID": 3,
}  # fmt: skip


@dataclass(frozen=True)
class Image:
    """One image as it is sent."""

    person: int
    true_side: str
    uid: str
    study: str
    series: str
    modality: str
    side: str
    view: str
    patient_id: str
    issuer: str
    born: str
    accession: str
    date: str
    content: str = "1"  # other content, other bytes
    second_side: str = ""  # stated beside the first one
    phase: int = 0
    place: int = 0

    @property
    def sha256(self) -> str:
        """Of the bytes that it would have."""
        return hashlib.sha256(repr(self).encode()).hexdigest()

    def header(self) -> Header:
        """What intake reads of it."""
        stated = {"ImageLaterality": self.side, "Laterality": self.second_side, "ViewPosition": self.view}
        stated |= {"PatientBirthDate": self.born, "PatientSex": "F"}
        return Header(
            self.uid,
            {"MG": MG, "US": US, "MR": MR}[self.modality],
            self.study,
            self.series,
            ExplicitVRLittleEndian,
            self.modality,
            self.patient_id,
            self.issuer,
            self.accession,
            self.date,
            {k: v for k, v in stated.items() if v},
        )

    def arrival(self, association: str, at: datetime) -> Arrival:
        """What intake tells the ledger."""
        return Arrival(Verdict.ACCEPTED, "", self.header(), self.sha256, 1000, "dimse", "SIM", association, at)

    def facts(self) -> InstanceFacts:
        """What the preprocessing reads of it: parsed once for each kind, then with this one's identity."""
        kind = _kind(self.modality, self.side, self.view, self.second_side, self.phase, self.place)
        own = {"sop_instance_uid": self.uid, "study_instance_uid": self.study, "series_instance_uid": self.series}
        return replace(kind, **own, study_date=self.date, patient_birth_date=self.born)  # type: ignore[arg-type]

    def dataset(self) -> Dataset:
        """Its header as DICOM, for reports that refer to it."""
        ds = _blank(self.modality, self.side, self.view, self.second_side, self.phase, self.place).copy()
        ds.SOPInstanceUID, ds.StudyInstanceUID, ds.SeriesInstanceUID = self.uid, self.study, self.series
        ds.PatientID, ds.PatientBirthDate, ds.StudyDate = self.patient_id, self.born, self.date
        ds.AccessionNumber = self.accession
        if self.issuer:
            ds.IssuerOfPatientID = self.issuer
        return ds


@cache
def _blank(*values: str | int) -> Dataset:
    return _dataset(*values)  # type: ignore[arg-type]


@cache
def _kind(*values: str | int) -> InstanceFacts:
    return InstanceFacts.from_dataset(_dataset(*values))  # type: ignore[arg-type]


def _dataset(modality: str, side: str, view: str, second_side: str, phase: int, place: int) -> Dataset:  # noqa: PLR0917
    ds = Dataset()
    ds.SOPClassUID = {"MG": MG, "US": US, "MR": MR}[modality]
    ds.SOPInstanceUID = ds.StudyInstanceUID = ds.SeriesInstanceUID = "1.2"
    ds.Modality, ds.PatientID, ds.PatientName, ds.PatientSex = modality, "", "Sim^Patient", "F"
    ds.PatientBirthDate = ds.StudyDate = ds.StudyTime = ds.AccessionNumber = ds.ReferringPhysicianName = ds.StudyID = ""
    ds.Manufacturer, ds.SeriesNumber, ds.InstanceNumber = "SIM", phase + 1, place + 1
    ds.Rows = ds.Columns = 128
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 12, 11, 0
    ds.PixelSpacing = [1.0, 1.0]
    if modality == "MG":
        ds.PresentationIntentType, ds.ImageType = "FOR PRESENTATION", ["DERIVED", "PRIMARY"]
        ds.ViewPosition = view
    if modality != "MR":
        ds.ImageLaterality = side
    if second_side:
        ds.Laterality = second_side
    if modality == "US":
        ds.BodyPartExamined, ds.ImageType = "BREAST", ["ORIGINAL", "PRIMARY"]
        region = Dataset()
        region.RegionSpatialFormat, region.RegionDataType, region.RegionFlags = 1, 1, 0
        region.RegionLocationMinX0 = region.RegionLocationMinY0 = 0
        region.RegionLocationMaxX1 = region.RegionLocationMaxY1 = 127
        region.PhysicalUnitsXDirection = region.PhysicalUnitsYDirection = 3
        region.PhysicalDeltaX = region.PhysicalDeltaY = 0.02
        ds.SequenceOfUltrasoundRegions = Items([region])
    if modality == "MR":
        ds.BodyPartExamined, ds.ImageType = "BREAST", ["ORIGINAL", "PRIMARY", "M"]
        ds.ScanningSequence, ds.EchoTime, ds.RepetitionTime = "GR", 1.5, 4.0
        ds.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        ds.ImagePositionPatient = [-64.0, -64.0, 5.0 * place]
        ds.AcquisitionTime, ds.AcquisitionNumber = f"1000{10 * phase:02d}", phase + 1
        ds.FrameOfReferenceUID, ds.SliceThickness = "1.2.3", 5.0
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return ds


@dataclass
class Patient:
    """One simulated patient: sendings by their time in hours, and what a person would decide at the end."""

    number: int
    kind: str
    like: int  # whose accession numbers and birth date it has
    sendings: list[tuple[float, list[Image]]] = field(default_factory=list)
    sides: frozenset[str] = frozenset("RL")
    accept: bool = False
    retry: bool = False
    exclude: set[str] = field(default_factory=set)

    @property
    def images(self) -> list[Image]:
        """Everything that is ever sent of it."""
        return [image for _, images in self.sendings for image in images]


@dataclass(frozen=True)
class Mix:
    """What patients there are. alike: each odd one has accession numbers and birth date of the one before: only the ID differs."""

    kinds: Mapping[str, int] = field(default_factory=lambda: KINDS)
    alike: bool = False


def population(seed: int, count: int, mix: Mix = Mix()) -> list[Patient]:
    """So many patients, the same for the same seed."""
    chance = random.Random(seed)
    return [_patient(chance, number, count, mix) for number in range(count)]


def _patient(chance: random.Random, number: int, count: int, mix: Mix) -> Patient:
    kind = chance.choices([*mix.kinds], [*mix.kinds.values()])[0]
    patient = Patient(number, kind, like=number - number % 2 if mix.alike else number)
    if kind == "unilateral":
        patient.sides = frozenset(chance.choice("RL"))
    modalities = ["MG", "MR", "US"]
    chance.shuffle(modalities)
    if kind == "two modalities":
        modalities = modalities[:2]
    if kind == "unilateral":
        modalities = [m for m in modalities if m != "MR"]
    day = datetime(2026, 1, 5) + timedelta(days=chance.randrange(5))  # noqa: DTZ001 - a DICOM date has no zone
    studies = []
    at = chance.uniform(0, 30)
    for modality in modalities:
        studies.append((at, _study(chance, patient, modality, day + timedelta(days=int(at // 24)))))
        at += chance.uniform(0.5, 40)
    if kind == "no ID":
        studies = [(at, [replace(i, patient_id="") for i in images]) for at, images in studies[:1]]
    for at, images in studies:
        patient.sendings += _sent(chance, at, images)
    _disturb(chance, patient, studies, count)
    return patient


def _study(chance: random.Random, patient: Patient, modality: str, day: datetime) -> list[Image]:
    """The images of one study."""
    number = patient.number
    study = f"1.2.{number + 1}.{('MG', 'US', 'MR').index(modality) + 1}"
    # One accession number in ten is somebody else's too: numbers are reused across departments.
    accession = f"ACC{patient.like if chance.random() > 0.1 else chance.randrange(20)}{modality}"
    base = Image(
        number, "", "", study, f"{study}.1", modality, "", "", f"P{number}", "HOSP", f"19{50 + patient.like % 50}0101",
        accession, day.strftime("%Y%m%d"),
    )  # fmt: skip
    if modality == "MR":
        places = [(phase, place) for phase in range(PHASES) for place in range(SLICES)]
        return [
            replace(base, uid=f"{study}.9.{p}.{z}", series=f"{study}.{p + 1}", phase=p, place=z, true_side="B")
            for p, z in places
        ]
    views = ("CC", "MLO") if modality == "MG" else ("", "")
    return [
        replace(base, uid=f"{study}.{'RL'.index(side) + 1}.{n}", side=side, true_side=side, view=view)
        for side in sorted(patient.sides)
        for n, view in enumerate(views, 1)
    ]


def _sent(chance: random.Random, at: float, images: Sequence[Image]) -> Iterator[tuple[float, list[Image]]]:
    """A study in one or several associations: shuffled, some of it twice, a little of it late."""
    images = list(images)
    chance.shuffle(images)
    cut = chance.randrange(1, len(images) + 1)
    for part in (images[:cut], images[cut:]):
        if part:
            yield at, part
            if chance.random() < 0.25:
                yield at + chance.uniform(0, 60), chance.sample(part, chance.randrange(1, len(part) + 1))
            at += chance.choice((0.002, 0.01, 3.0))


def _disturb(chance: random.Random, patient: Patient, studies: Sequence[tuple[float, list[Image]]], count: int) -> None:
    """What goes wrong with this patient."""
    at, images = chance.choice([s for s in studies if s[1][0].modality != "MR"] or list(studies))
    one, later = chance.choice(images), at + chance.choice((0.001, 2.0, 30.0))
    patient.accept, patient.retry = chance.random() < 0.7, chance.random() < 0.5
    other_side = {"R": "L", "L": "R"}.get(one.side, "")
    match patient.kind:
        case "late":
            patient.sendings.append((at + 70, [replace(one, uid=f"{one.uid}.7", content="late")]))
        case "wrong side" if other_side:
            _swap(patient, one, replace(one, side=other_side, content="wrong"))
            patient.sendings.append((later + 60, [one]))
        case "two sides stated" if other_side:
            _swap(patient, one, replace(one, second_side=other_side))
        case "corrected":
            patient.sendings.append((later + 60, [replace(one, content="corrected")]))
        case "issuer left out":
            for image in images:
                _swap(patient, image, replace(image, issuer=""))
        case _:
            _confuse(chance, patient, images, later, one, count)


def _confuse(  # noqa: PLR0917 - what `_disturb` has drawn
    chance: random.Random, patient: Patient, images: Sequence[Image], later: float, one: Image, count: int
) -> None:
    """Whose image is it?"""
    number, other = patient.number, (patient.number + 1) % count
    match patient.kind:
        case "foreign image":  # in this one's study another one's ID: the ID is wrong, or the study is
            mine, born = chance.random() < 0.5, f"19{50 + other % 50}0101"
            alien = replace(
                one, uid=f"{one.uid}.8", person=number if mine else other, patient_id=f"P{other}", born=born
            )
            alien = replace(alien, issuer="HOSP")
            patient.sendings.append((later, [alien]))
            if mine:
                patient.exclude.add(alien.uid)
        case "somebody else's image":
            alien = replace(one, uid=f"{one.uid}.8", person=-number - 1, born="19110101")
            patient.sendings.append((later, [alien]))
            if patient.accept:
                patient.exclude.add(alien.uid)
        case "ID corrected":
            moved = [replace(i, patient_id=f"P{number}M", content="merged") for i in images]
            patient.sendings.append((later + 70, moved))
        case "namesake":
            twin = [replace(i, person=-number - 1, issuer="CLINIC", born="19330303", accession="") for i in images]
            twin = [replace(i, uid=f"{i.uid}.5", study=f"{i.study}.5", series=f"{i.series}.5") for i in twin]
            patient.sendings.append((later, twin))


def _swap(patient: Patient, old: Image, new: Image) -> None:
    """Send another image in the place of one, everywhere."""
    patient.sendings = [(at, [new if i == old else i for i in images]) for at, images in patient.sendings]
