"""Which studies are chosen, and why not the others: the rule without a PACS."""

from datetime import date
from typing import Any

import pytest

from casework.config import Fetch
from casework.dicom.search import FoundSeries, FoundStudy, Person, contradiction
from casework.flows.fetch import Patient, choose
from casework.ledger import HereStudy

OURS = Person("P1", "A", "Zhang^Xiaodong=张^小东", "19700101")
CASE = Patient(OURS, date(2026, 1, 10), (HereStudy("1.1", "20260110", {"MG": 4}, "A1"),), 90)


def study(uid: str = "1.2", modality: str = "MR", count: int = 9, **values: Any) -> FoundStudy:
    """A breast study of our patient; values are of the study, the series or the person."""
    series: dict[str, Any] = {"body_part": "BREAST", "description": ""}
    series |= {k: values.pop(k) for k in ("body_part", "said") if k in values}
    person = {"patient_id": "P1", "issuer": "", "name": "ZHANG^XIAODONG", "birth_date": "19700101"}
    person |= {key: values.pop(key) for key in person if key in values}
    given = {"study_date": "20260201", "accession_number": "A2", "description": "", **values}
    return FoundStudy(
        uid, Person(**person), series=(FoundSeries(uid + ".1", modality, count=count, **series),), **given
    )


@pytest.mark.parametrize(
    ("found", "role", "code"),
    [
        (study(), "sibling", ""),
        (study(study_date="20260410"), "sibling", ""),  # day 90
        (study(study_date="20260411"), "sibling", "FETCH_OUTSIDE_WINDOW"),
        (study(study_date=""), "sibling", "FETCH_DATE_UNKNOWN"),
        (study(study_date="20240110", modality="MG"), "prior", ""),
        (study(study_date="20240110"), "prior", "FETCH_OUTSIDE_WINDOW"),  # an old MR is no prior of a mammogram
        (study(study_date="20190110", modality="MG"), "prior", "FETCH_OUTSIDE_WINDOW"),
        (study(modality="MG"), "sibling", "FETCH_MODALITY_HERE"),
        (study(modality="CT"), "sibling", "FETCH_MODALITY"),
        (study(modality="SR"), "sibling", "FETCH_MODALITY"),
        (study(count=0), "sibling", "FETCH_MODALITY"),
        (study(uid="1.1", modality="MG", count=9), "sibling", "FETCH_ALREADY_HERE"),
        (study(count=5001), "sibling", "FETCH_TOO_MANY_IMAGES"),
        (study(body_part="KNEE"), "sibling", "FETCH_BODY_PART"),
        (study(body_part=""), "sibling", "FETCH_NOT_BREAST"),
        (
            study(body_part="CHEST"),
            "sibling",
            "FETCH_NOT_BREAST",
        ),  # often the label of a breast MRI, but of a heart's too
        (study(body_part="", said=("AX T1 dyn", "BreastMatrix 16")), "sibling", ""),  # its coil
        (study(body_part="", said=("T-04000",)), "sibling", ""),
        (study(body_part="", said=("HeadNeck 20", "76752009")), "sibling", "FETCH_NOT_BREAST"),
        (study(body_part="", accession_number="A1"), "sibling", ""),  # the order of the mammogram
        (study(body_part="KNEE", accession_number="A1"), "sibling", "FETCH_BODY_PART"),
        (study(body_part="", study_date="20260411"), "sibling", "FETCH_OUTSIDE_WINDOW"),  # nobody has to look into it
        (study(body_part="", description="MRT Mamma bds."), "sibling", ""),
        (study(body_part="CHEST", description="双侧乳腺增强"), "sibling", ""),
        (study(modality="US", body_part="AXILLA"), "sibling", ""),
        (study(birth_date="19700102"), "sibling", "FETCH_OTHER_PATIENT"),
        (study(birth_date=""), "sibling", ""),
        (study(issuer="B"), "sibling", "FETCH_OTHER_PATIENT"),
        (study(name="LI^NA"), "sibling", "FETCH_OTHER_PATIENT"),
        (study(patient_id="p1"), "sibling", "FETCH_OTHER_PATIENT"),
        (study(uid="1.2/../../instances"), "sibling", "UID_INVALID"),
    ],
)
def test_one_study(found: FoundStudy, role: str, code: str) -> None:
    """Each reason by itself; the dates are counted from the case's day."""
    (item,) = choose([found], CASE, Fetch(priors=1))
    assert (item.role, item.code) == (role, code)
    assert bool(item.series) == (code not in {"FETCH_MODALITY", "UID_INVALID"})


def test_the_newest_priors_only() -> None:
    """So many priors for each modality, the newest first, in whatever order the PACS names them."""
    found = [study(f"1.{year}", "MG", study_date=f"{year}0110") for year in (2022, 2024, 2021, 2023)]
    told = {item.study_uid: item.code for item in choose(found, CASE, Fetch(priors=2))}
    assert told == {"1.2024": "", "1.2023": "", "1.2022": "FETCH_OLDER_PRIOR", "1.2021": "FETCH_OLDER_PRIOR"}
    assert {item.code for item in choose(found, CASE, Fetch())} == {"FETCH_OUTSIDE_WINDOW"}


def test_what_a_person_names_is_fetched_unless_it_is_another_patients() -> None:
    """A named study needs no date, no words and no missing modality; identity is not waived."""
    odd = study(study_date="", body_part="", modality="MG")
    assert [(i.role, i.code) for i in choose([odd], CASE, Fetch(), "A2")] == [("asked", "")]
    assert [i.code for i in choose([study(birth_date="19991231")], CASE, Fetch(), "A2")] == ["FETCH_OTHER_PATIENT"]
    nobody = Patient(Person("", "", "", ""), None, (), 90)
    assert [i.code for i in choose([odd], nobody, Fetch(), "1.2")] == [""]


def test_only_series_of_the_three_modalities_are_fetched() -> None:
    """Reports, captures and series without images stay in the PACS; so does a series whose UID is none."""
    mixed = FoundStudy(
        "1.5",
        OURS,
        "20260120",
        "",
        "breast",
        (
            FoundSeries("1.5.1", "MR", "", "", 7),
            FoundSeries("1.5.2", "SR", "", "", 1),
            FoundSeries("../1", "MR", "", "", 5),
            FoundSeries("1.5.3", "US", "", "", 0),
        ),
    )
    (item,) = choose([mixed], CASE, Fetch())
    assert item.series == {"MR": {"1.5.1": 7}}
    assert item.code == ""


@pytest.mark.parametrize(
    ("name", "same"),
    [
        ("Zhang^Xiao Dong", True),
        ("ZHANG XIAODONG", True),
        ("Zhang^Xiaodong^Mei", True),  # a middle name more
        ("Zháng^Xiǎodōng", True),
        ("张小东", True),  # characters in the first group can't be compared with letters
        ("Zhang^Xiaodong=张^小冬", False),
        ("Zhang^Xiaodong=张^小东^^^=", True),
        ("Zhang^Meili", False),
        ("Schmidt-Zhang^Xiaodong", True),
        ("", True),
    ],
)
def test_names(name: str, same: bool) -> None:
    """Spelling, accents and a middle name are no contradiction; another given name, or another character, is."""
    assert contradiction(OURS, Person("P1", "", name, "")) == ("" if same else "PatientName")
