"""Who a phantom patient is on paper: names in several scripts, numbers, dates and UIDs, all from the seed. Does no I/O."""

import datetime as dt
import uuid
from dataclasses import dataclass

from models.cman.phantom.patient import Patient

_NAMESPACE = uuid.UUID("a3b2b0f2-6f0e-5a52-9d0c-6d2f0c5c7b11")

NAMES = {
    "latin": (["ISO_IR 100"], ("Møller^Anna", "García^Inés", "Weiß^Jördis", "Beaulieu^Hélène")),
    "utf8": (
        ["ISO_IR 192"],
        ("Zhang^Xiaohong=张^小红=", "Li^Meiling=李^美玲=", "Wang^Fang=王^芳=", "Chen^Jing=陈^静="),
    ),
    "gb18030": (["GB18030"], ("Zhao^Yun=赵^云=", "Sun^Xiuying=孙^秀英=", "Zhou^Min=周^敏=", "Wu^Li=吴^丽=")),
    "japanese": (
        ["", "ISO 2022 IR 87"],
        (
            "Yamada^Hanako=山田^花子=やまだ^はなこ",
            "Sato^Yumi=佐藤^由美=さとう^ゆみ",
            "Suzuki^Keiko=鈴木^恵子=すずき^けいこ",
        ),
    ),
}
"""character set word -> (Specific Character Set, names)."""

_DAYS = {"MG": 0, "US": 1, "MR": 6}


@dataclass(frozen=True, slots=True)
class Identity:
    """What the headers of one patient share."""

    seed: int
    character_set: list[str]
    name: str
    patient_id: str
    issuer: str
    birth_date: str
    age: str
    first_day: dt.date

    def uid(self, *parts: object) -> str:
        """A UID that is the same for the same seed and parts (PS3.5 B.2)."""
        name = "|".join(map(str, ("phantom-1", self.seed, *self.character_set, *parts)))
        return f"2.25.{uuid.uuid5(_NAMESPACE, name).int}"

    def accession(self, modality: str) -> str:
        """The study's Accession Number, at most 16 characters."""
        return f"{modality}{self.first_day:%y%m}{self.seed % 10**8:08d}"

    def day(self, modality: str) -> str:
        """The study's date as DA: all three within a week."""
        return f"{self.first_day + dt.timedelta(days=_DAYS[modality]):%Y%m%d}"


def identify(patient: Patient, character_set: str) -> Identity:
    """The identity of a patient.

    Raises:
        KeyError: the word is not one of NAMES.
    """
    codes, names = NAMES[character_set]
    first = dt.date(2025, 3, 3) + dt.timedelta(days=patient.seed % 200)
    born = dt.date(first.year - patient.age_years, 1 + patient.seed % 12, 1 + patient.seed % 28)
    years = first.year - born.year - ((first.month, first.day) < (born.month, born.day))
    return Identity(
        seed=patient.seed,
        character_set=codes,
        name=names[patient.seed % len(names)],
        patient_id=f"PH{patient.hospital.name}{patient.seed:08d}",
        issuer=f"PHANTOM-HOSPITAL-{patient.hospital.name}",
        birth_date=f"{born:%Y%m%d}",
        age=f"{years:03d}Y",
        first_day=first,
    )
