"""The simulator's archive: files as they were received, an index in memory, and DICOM matching (PS3.4 C.2.2.2)."""

import fnmatch
import hashlib
import re
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from pydicom import dcmread
from pydicom.datadict import dictionary_VR
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.valuerep import PersonName

LEVELS = ("PATIENT", "STUDY", "SERIES", "IMAGE")
UNIQUE = {
    "PATIENT": "PatientID",
    "STUDY": "StudyInstanceUID",
    "SERIES": "SeriesInstanceUID",
    "IMAGE": "SOPInstanceUID",
}
KEPT = (
    "PatientName",
    "PatientID",
    "IssuerOfPatientID",
    "PatientBirthDate",
    "PatientSex",
    "StudyInstanceUID",
    "StudyDate",
    "StudyTime",
    "StudyID",
    "StudyDescription",
    "AccessionNumber",
    "ReferringPhysicianName",
    "SeriesInstanceUID",
    "SeriesDate",
    "SeriesTime",
    "SeriesNumber",
    "SeriesDescription",
    "Modality",
    "BodyPartExamined",
    "Laterality",
    "SOPInstanceUID",
    "SOPClassUID",
    "InstanceNumber",
    "Rows",
    "Columns",
    "NumberOfFrames",
)
COUNTS = {
    "NumberOfPatientRelatedStudies": ("PATIENT", "STUDY"),
    "NumberOfPatientRelatedSeries": ("PATIENT", "SERIES"),
    "NumberOfPatientRelatedInstances": ("PATIENT", "IMAGE"),
    "NumberOfStudyRelatedSeries": ("STUDY", "SERIES"),
    "NumberOfStudyRelatedInstances": ("STUDY", "IMAGE"),
    "NumberOfSeriesRelatedInstances": ("SERIES", "IMAGE"),
}
_ESCAPE = re.compile(r"\x1b\$?[()-/]?[@-~]")


@dataclass
class Stored:
    """One kept object."""

    path: Path
    sha256: str
    transfer_syntax: str
    calling: str
    tags: Dataset
    arrived: float = field(default_factory=time.monotonic)

    @property
    def sop_uid(self) -> str:
        return str(self.tags.SOPInstanceUID)

    @property
    def sop_class(self) -> str:
        return str(self.tags.SOPClassUID)

    def value(self, keyword: str) -> str:
        return text(self.tags.get(keyword))


def text(value: object) -> str:
    """A value as decoded words; escape sequences of ISO 2022 that the decoder left over are dropped."""
    if value is None:
        return ""
    if isinstance(value, MultiValue | list):
        return "\\".join(text(v) for v in value)
    return _ESCAPE.sub("", str(value)).strip().strip("\0")


class Archive:
    """Objects by SOP Instance UID. The first bytes of a UID win, as in a PACS that never overwrites."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = threading.Lock()
        self._by_uid: dict[str, Stored] = {}
        for path in sorted(folder.glob("*.dcm")):
            self._index(path, path.read_bytes(), "")

    def keep(self, part10: bytes, calling: str) -> Stored:
        """Write a Part 10 file and index it. The name is a digest: nothing that a peer sent becomes a path."""
        path = self.folder / f"{hashlib.sha256(part10).hexdigest()}.dcm"
        partial = path.with_suffix(f".{threading.get_ident()}.part")
        partial.write_bytes(part10)
        partial.rename(path)
        return self._index(path, part10, calling)

    def _index(self, path: Path, part10: bytes, calling: str) -> Stored:
        ds = dcmread(path, stop_before_pixels=True, specific_tags=[*KEPT, "SpecificCharacterSet"])
        stored = Stored(path, hashlib.sha256(part10).hexdigest(), str(ds.file_meta.TransferSyntaxUID), calling, ds)
        with self._lock:
            first = self._by_uid.setdefault(stored.sop_uid, stored)
        if first.path != path:
            path.unlink()
        return first

    def drop(self, sop_uid: str) -> None:
        """Lose an object."""
        with self._lock:
            stored = self._by_uid.pop(sop_uid, None)
        if stored is not None:
            stored.path.unlink(missing_ok=True)

    def all(self) -> list[Stored]:
        with self._lock:
            return list(self._by_uid.values())

    def of(self, sop_uid: str) -> Stored | None:
        with self._lock:
            return self._by_uid.get(sop_uid)

    def matching(self, query: Dataset) -> list[Stored]:
        """Objects that match every key that is not empty, whatever level it belongs to."""
        keys = {e.keyword: text(e.value) for e in query if e.keyword in KEPT or e.keyword == "ModalitiesInStudy"}
        wanted = {k: v for k, v in keys.items() if v}
        modalities = wanted.pop("ModalitiesInStudy", "")
        found = [s for s in self.all() if all(matches(k, v, s.value(k)) for k, v in wanted.items())]
        if modalities:
            studies = {
                s.value("StudyInstanceUID") for s in self.all() if matches("Modality", modalities, s.value("Modality"))
            }
            found = [s for s in found if s.value("StudyInstanceUID") in studies]
        return found

    def answers(self, query: Dataset, level: str) -> list[Dataset]:
        """C-FIND / QIDO answers at `level`: the asked keys, counts computed, text in UTF-8."""
        entities: dict[str, list[Stored]] = {}
        for stored in self.matching(query):
            entities.setdefault(stored.value(UNIQUE[level]), []).append(stored)
        return [self._answer(query, level, members) for _, members in sorted(entities.items())]

    def _answer(self, query: Dataset, level: str, members: list[Stored]) -> Dataset:
        first = members[0]
        answer = Dataset()
        answer.SpecificCharacterSet = "ISO_IR 192"
        asked = [e.keyword for e in query if e.keyword]
        for keyword in dict.fromkeys([*(UNIQUE[v] for v in LEVELS[: LEVELS.index(level) + 1]), *asked]):
            if keyword in COUNTS:
                setattr(answer, keyword, str(self._count(keyword, first)))
            elif keyword == "ModalitiesInStudy":
                answer.ModalitiesInStudy = sorted({s.value("Modality") for s in self._with("STUDY", first)})
            elif keyword in KEPT:
                value = first.value(keyword)
                numeric = dictionary_VR(keyword) in ("US", "UL")
                setattr(answer, keyword, (int(value) if value else None) if numeric else value)
        return answer

    def _with(self, level: str, like: Stored) -> list[Stored]:
        keyword = UNIQUE[level]
        return [s for s in self.all() if s.value(keyword) == like.value(keyword)]

    def _count(self, keyword: str, like: Stored) -> int:
        within, what = COUNTS[keyword]
        return len({s.value(UNIQUE[what]) for s in self._with(within, like)})


def matches(keyword: str, wanted: str, value: str) -> bool:
    """Single value, list, range of dates and times, and wildcard matching; names without regard to case."""
    vr = dictionary_VR(keyword)
    if vr == "UI":
        return value in wanted.split("\\")
    if vr in ("DA", "TM") and "-" in wanted:
        low, high = wanted.split("-", 1)
        return bool(value) and (not low or value >= low) and (not high or value[: len(high)] <= high)
    if vr == "PN":
        return any(_like(wanted.casefold(), part.casefold()) for part in (value, *_components(value)))
    return any(_like(one, value) for one in wanted.split("\\"))


def _components(value: str) -> Iterable[str]:
    name = PersonName(value)
    return (name.alphabetic, name.ideographic, name.phonetic)


def _like(pattern: str, value: str) -> bool:
    return fnmatch.fnmatchcase(value, pattern.replace("[", "[[]"))
