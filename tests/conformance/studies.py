"""Source studies and results made on the spot: small, valid DICOM in any character set, and a CaseResult over them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom import dcmread, dcmwrite
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from casework.case import derive_uid, input_digest
from casework.result import CaseResult, Depths, Finding, HeatImage, ModelIdentity, Outcome, Side, SideResult

NOW = datetime(2026, 11, 20, 9, 30, 15, tzinfo=UTC)
CLASSES = {
    "MG": "1.2.840.10008.5.1.4.1.1.1.2",
    "MR": "1.2.840.10008.5.1.4.1.1.4",
    "US": "1.2.840.10008.5.1.4.1.1.3.1",
}
VIEW_CODES = {"CC": ("399162004", "cranio-caudal"), "MLO": ("399368009", "medio-lateral oblique")}
ORIENTATIONS = {"RCC": ["P", "L"], "LCC": ["A", "R"], "RMLO": ["P", "FL"], "LMLO": ["A", "FR"]}


@dataclass(frozen=True, slots=True)
class Names:
    """A character set as declared, and a patient's name and study description as bytes of it."""

    terms: Sequence[str]
    name: bytes
    description: bytes


# ISO 2022 IR 58 designates GB 2312 to G1 with ESC $ ) A at the start of each component that uses it (PS3.5 K.2).
_IR58 = b"\x1b$)A"
NAMES: Mapping[str, Names] = {
    "utf8": Names(["ISO_IR 192"], "Wang^XiaoDong=王^小东".encode(), "乳腺 X线".encode()),
    "gb18030": Names(["GB18030"], "Zhang^Cheng=张^诚誠䶮".encode("gb18030"), "乳腺检查".encode("gb18030")),
    # 誠 has a second byte of 5C, which common validators take for a backslash.
    "gb18030 without 5C": Names(["GB18030"], "Zhang^XiaoDong=张^小东".encode("gb18030"), "乳腺检查".encode("gb18030")),
    "gbk": Names(["GBK"], "Zhang^Cheng=张^诚".encode("gbk"), "乳腺检查".encode("gbk")),
    "ir58": Names(
        ["", "ISO 2022 IR 58"],
        b"Zhang^XiaoDong=" + _IR58 + "张".encode("gb2312") + b"^" + _IR58 + "小东".encode("gb2312"),
        _IR58 + "乳腺".encode("gb2312"),
    ),
    "ir87": Names(
        ["", "ISO 2022 IR 87"],
        b"Yamada^Tarou=\x1b$B;3ED\x1b(B^\x1b$BB@O:\x1b(B=\x1b$B$d$^$@\x1b(B^\x1b$B$?$m$&\x1b(B",
        b"\x1b$BF}K<\x1b(B",
    ),
    "latin1": Names(["ISO_IR 100"], "Müller^Jörg".encode("latin-1"), b"Mammographie"),
    "none": Names([], b"Doe^Jane", b"Mammogram"),
    "unlabelled gbk": Names([], "Wang^XiaoDong=王^小东".encode("gbk"), "乳腺".encode("gbk")),
    "unlabelled escapes": Names([], b"Yamada^Tarou=\x1b$B;3ED\x1b(B^\x1b$BB@O:\x1b(B", b"\x1b$BF}K<\x1b(B"),
    "mislabelled": Names(["ISO_IR 100"], "Wang^XiaoDong=王^小东".encode("gbk"), "乳腺".encode("gbk")),
}


def code(value: str, scheme: str, meaning: str) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    return item


@dataclass(frozen=True, slots=True)
class Case:
    """Sources as files' bytes, as headers by UID, and the result over them."""

    files: Mapping[str, bytes]
    sources: dict[str, Dataset]
    result: CaseResult

    def write(self, folder: Path) -> list[Path]:
        folder.mkdir(parents=True, exist_ok=True)
        paths = []
        for n, data in enumerate(self.files.values()):
            paths.append(folder / f"s{n:03d}.dcm")
            paths[-1].write_bytes(data)
        return paths


class Maker:
    """Writes one patient's studies in one character set."""

    def __init__(self, names: Names, seed: int = 7, timezone: str = "") -> None:
        self.names, self.timezone = names, timezone
        self.rng = np.random.default_rng(seed)
        self.files: dict[str, bytes] = {}
        self.key = f"{seed}{names.name!r}{names.terms}"

    def uid(self, *parts: str) -> str:
        return derive_uid("test", self.key, *parts)

    def start(self, modality: str, series: str, instance: str, number: int) -> Dataset:
        meta = FileMetaDataset()
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        meta.MediaStorageSOPClassUID = CLASSES[modality]
        meta.MediaStorageSOPInstanceUID = self.uid(modality, series, instance)
        ds = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
        if self.names.terms:
            ds.SpecificCharacterSet = list(self.names.terms)
        ds.SOPClassUID, ds.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
        # Text stays ASCII here, as long as the real bytes: `save` puts those in, so that no library re-encodes them.
        ds.PatientName, ds.StudyDescription = "N" * len(self.names.name), "D" * len(self.names.description)
        ds.PatientID, ds.IssuerOfPatientID, ds.PatientBirthDate, ds.PatientSex = "P-0001", "HOSPITAL-A", "19700214", "F"
        ds.PatientAge = "055Y"
        ds.StudyInstanceUID, ds.StudyID = self.uid("study", modality), f"S{modality}"
        ds.StudyDate, ds.StudyTime, ds.AccessionNumber = "20260105", "101000", f"ACC-{modality}"
        ds.ReferringPhysicianName = "Ref^Doctor"
        if self.timezone:
            ds.TimezoneOffsetFromUTC = self.timezone
        ds.ProcedureCodeSequence = (
            [code("71651007", "SCT", "Mammography")]
            if modality == "MG"
            else [code("363679005", "SCT", "Imaging procedure")]
        )
        ds.Modality, ds.SeriesInstanceUID, ds.SeriesNumber = modality, self.uid("series", modality, series), number
        ds.SeriesDate, ds.SeriesTime, ds.InstanceNumber = "20260105", "101200", number
        ds.ContentDate, ds.ContentTime = "20260105", "101210"
        ds.AcquisitionDate, ds.AcquisitionTime = "20260105", "101210"
        ds.Manufacturer, ds.ManufacturerModelName, ds.DeviceSerialNumber = "Test Imaging", "T1", "SN1"
        ds.SoftwareVersions = "1.0"
        ds.BodyPartExamined, ds.LossyImageCompression = "BREAST", "00"
        ds.AnatomicRegionSequence = [code("76752008", "SCT", "Breast")]
        return ds

    def pixels(self, ds: Dataset, picture: NDArray[np.generic]) -> None:
        ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
        ds.Rows, ds.Columns = picture.shape[-2:]
        bits = 8 if picture.dtype == np.uint8 else 16
        ds.BitsAllocated, ds.BitsStored, ds.HighBit = bits, min(bits, 12), min(bits, 12) - 1
        ds.PixelRepresentation = 0
        ds.PixelData = picture.tobytes()

    def save(self, ds: Dataset) -> str:
        buffer = BytesIO()
        dcmwrite(buffer, ds, enforce_file_format=True)
        data = buffer.getvalue()
        for real, letter in ((self.names.name, b"N"), (self.names.description, b"D")):
            assert letter * len(real) in data
            data = data.replace(letter * len(real), real, 1)
        self.files[str(ds.SOPInstanceUID)] = data
        return str(ds.SOPInstanceUID)

    def mammogram(self, side: str, view: str) -> str:
        number = ["RCC", "RMLO", "LCC", "LMLO"].index(side + view) + 1
        ds = self.start("MG", side + view, "1", number)
        ds.ImageType, ds.PresentationIntentType = ["DERIVED", "PRIMARY"], "FOR PRESENTATION"
        ds.ImageLaterality, ds.ViewPosition = side, view
        item = code(VIEW_CODES[view][0], "SCT", VIEW_CODES[view][1])
        item.ViewModifierCodeSequence = []
        ds.ViewCodeSequence = [item]
        ds.PatientOrientation = ORIENTATIONS[side + view]
        ds.BurnedInAnnotation, ds.ImagerPixelSpacing = "NO", [0.1, 0.1]
        self.pixels(ds, _breast(self.rng, side))
        return self.save(ds)

    def volume(self, slices: int = 8) -> list[str]:
        made = []
        for k in range(slices):
            ds = self.start("MR", "1", str(k), 5)
            ds.InstanceNumber, ds.Laterality = k + 1, ""
            ds.FrameOfReferenceUID, ds.PositionReferenceIndicator = self.uid("for"), ""
            ds.ImageType = ["ORIGINAL", "PRIMARY", "OTHER"]
            ds.PixelSpacing, ds.SliceThickness = [1.2, 1.2], 3
            ds.ImageOrientationPatient, ds.ImagePositionPatient = [1, 0, 0, 0, 1, 0], [-75, -75, 3 * k]
            self.pixels(ds, (self.rng.normal(200, 30, (128, 128)).clip(0, 4095)).astype("<u2"))
            made.append(self.save(ds))
        return made

    def cine(self, side: str, frames: int = 4) -> str:
        ds = self.start("US", side, "1", 2 + "RL".index(side))
        ds.Laterality, ds.BurnedInAnnotation, ds.ImageType = side, "NO", ["ORIGINAL", "PRIMARY"]
        ds.NumberOfFrames, ds.FrameTime, ds.FrameIncrementPointer = frames, "40.0", 0x00181063
        ds.PatientOrientation = ""
        region = Dataset()
        region.RegionLocationMinX0, region.RegionLocationMinY0 = 0, 0
        region.RegionLocationMaxX1, region.RegionLocationMaxY1 = 159, 119
        region.RegionSpatialFormat, region.RegionDataType, region.RegionFlags = 1, 1, 0
        region.PhysicalUnitsXDirection = region.PhysicalUnitsYDirection = 3
        region.PhysicalDeltaX = region.PhysicalDeltaY = 0.02
        ds.SequenceOfUltrasoundRegions = [region]
        self.pixels(ds, self.rng.integers(0, 200, (frames, 120, 160)).astype(np.uint8))
        return self.save(ds)


def _breast(rng: np.random.Generator, side: str) -> NDArray[np.generic]:
    rows, columns = 320, 240
    y, x = np.mgrid[0:rows, 0:columns]
    x = x if side == "L" else columns - 1 - x
    inside = ((y - rows / 2) / (rows * 0.45)) ** 2 + (x / (columns * 0.8)) ** 2 < 1
    return np.where(inside, 1500 + rng.normal(0, 80, (rows, columns)), 60).clip(0, 4095).astype("<u2")


def blob(shape: tuple[int, int], row: float, col: float, radius: float, peak: float = 1.0) -> NDArray[np.float32]:
    y, x = np.mgrid[0 : shape[0], 0 : shape[1]]
    return (peak * np.exp(-(((y - row) / radius) ** 2 + ((x - col) / radius) ** 2))).astype(np.float32)


def heat_image(
    side: Side,
    modality: str,
    view: str,
    *,
    study: str,
    sources: Sequence[str],
    shape: tuple[int, int],
    frame: int = 1,
) -> HeatImage:
    """A picture at half the source's size with heat near its outer upper corner; a region except on projections."""
    small = (shape[0] // 2, shape[1] // 2)
    row, col = small[0] * 0.25, small[1] * (0.75 if side is Side.RIGHT else 0.25)
    to_source = np.array([[2.0, 0.0, 0.5], [0.0, 2.0, 0.5]])
    region = None
    if len(sources) == 1:
        angles = np.linspace(0, 2 * np.pi, 13)[:-1]
        region = np.stack([row * 2 + 18 * np.sin(angles), col * 2 + 18 * np.cos(angles)], axis=1)
    return HeatImage(
        side=side,
        modality=modality,
        view=view,
        study_instance_uid=study,
        sources=tuple(sources),
        frame_number=frame,
        picture=(40 + 120 * blob(small, small[0] / 2, small[1] / 2, small[0] / 2)).astype(np.uint8),
        heat=blob(small, row, col, small[0] / 10),
        to_source=to_source,
        region=region,
        peak=(row * 2, col * 2),
        depths=_depths(sources, shape, (row * 2, col * 2)) if modality == "MR" else None,
    )


def _depths(sources: Sequence[str], shape: tuple[int, int], hot: tuple[float, float]) -> Depths:
    """A projection along the slices that was read from the first one around the hottest place, else from the third."""
    rows, cols = np.indices(shape)
    near = np.hypot(rows - hot[0], cols - hot[1]) < 30
    return Depths(
        slices=tuple((uid, 1) for uid in sources),
        depth=np.where(near, 0, 2).astype(np.int16),
        picture_to_grid=np.array([[2.0, 0.0, 0.5], [0.0, 2.0, 0.5]]),
        to_voxel=np.array([[0.0, 0.0, 1.0, 0.0], [1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0]]),
    )


MODEL = ModelIdentity("CMAN", "0.1.0", "ab" * 32, "onnxruntime CPUExecutionProvider", derive_uid("device", "test"))


def make(
    charset: str = "utf8",
    *,
    modalities: Sequence[str] = ("MG", "MR", "US"),
    sides: Sequence[str] = ("R", "L"),
    outcomes: Mapping[str, tuple[Outcome, float | None]] | None = None,
    slices: int = 8,
    timezone: str = "",
    us_frames: Sequence[int] = (2,),
) -> Case:
    """One patient's case; `outcomes` by side, by default right positive, left negative; us_frames: analysed of each cine."""
    maker = Maker(NAMES[charset], timezone=timezone)
    images: list[HeatImage] = []
    volume = maker.volume(slices) if "MR" in modalities else []
    for letter in sides:
        side = Side(letter)
        if "MG" in modalities:
            for view in ("CC", "MLO"):
                uid = maker.mammogram(letter, view)
                images.append(
                    heat_image(side, "MG", view, study=maker.uid("study", "MG"), sources=[uid], shape=(320, 240))
                )
        if "MR" in modalities:
            for view in ("AX", "SAG", "AX_SUP", "AX_INF"):
                images.append(
                    heat_image(side, "MR", view, study=maker.uid("study", "MR"), sources=volume, shape=(128, 128))
                )
        if "US" in modalities:
            uid = maker.cine(letter)
            for slot, frame in enumerate(us_frames, 1):
                study = maker.uid("study", "US")
                image = heat_image(side, "US", str(slot), study=study, sources=[uid], shape=(120, 160), frame=frame)
                images.append(image)
    usual = {"R": (Outcome.POSITIVE, 0.8125), "L": (Outcome.NEGATIVE, 0.037)}
    chosen = outcomes or {side: usual[side] for side in sides}
    results = []
    for letter, (outcome, probability) in chosen.items():
        used = tuple(m for m in ("MG", "MR", "US") if any(i.modality == m and i.side.value == letter for i in images))
        evidence = {m: 0.5 - 0.2 * n for n, m in enumerate(used)}
        results.append(SideResult(Side(letter), outcome, probability, evidence, used))
    # The first slice holds the suspected side's hottest place (see _depths).
    shown = volume[:2] if _suspected(chosen) else []  # the slice with the region, and one beside it
    planes = {(uid, 1): np.full((128, 128), 90, np.uint8) for uid in shown}
    findings = [Finding("MODALITY_MISSING", m) for m in ("MG", "MR", "US") if m not in modalities]
    result = CaseResult(
        case_id="3f0c6a52-0000-4000-8000-000000000001",
        revision=1,
        model=MODEL,
        sides=tuple(results),
        images=tuple(images),
        findings=tuple(findings),
        input_digest=input_digest(list(maker.files), MODEL.sha256, "p1"),
        thresholds={"positive_at": 0.5, "negative_below": 0.2},
        planes=planes,
    )
    sources: dict[str, Dataset] = {
        uid: dcmread(BytesIO(data), stop_before_pixels=True) for uid, data in maker.files.items()
    }
    return Case(maker.files, sources, result)


def _suspected(answers: Mapping[str, tuple[Outcome, float | None]]) -> bool:
    return any(outcome in {Outcome.POSITIVE, Outcome.INDETERMINATE} for outcome, _ in answers.values())


def with_predecessor(case: Case) -> Case:
    """The same case, replacing an older report of its first study."""
    study = case.result.images[0].study_instance_uid
    older = (study, derive_uid("old", "series"), "1.2.840.10008.5.1.4.1.1.88.34", derive_uid("old", "sr"))
    return replace(case, result=replace(case.result, revision=2, predecessors=(older,)))
