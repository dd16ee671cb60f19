"""What `why` says first is about what was asked for: the study, the image, and every patient that an identifier may mean."""

from dataclasses import replace

import pytest

from casework.ledger import Ledger
from casework.ledger.types_why import Stage
from tests.ledger.ledger_help import NOW, C, Note, artefacts, at, claim, new_case, record, sha
from tests.ledger.test_changes import keeper


def asked(ledger: Ledger, query: str) -> tuple[str, Stage]:
    found = ledger.read.why(query, at(300))
    return found.next_code, found.stage


def half_used(ledger: Ledger) -> str:
    """A case of two studies of which one gave no image."""
    new_case(ledger, "1.1", study_instance_uid="1", accession_number="MG1")
    case_id = new_case(ledger, "2.1", study_instance_uid="2", accession_number="US1")
    keeper(ledger)(20)
    job = claim(ledger, at(100))
    (one,) = artefacts(case_id, 1)[:1]
    used = replace(one, study_instance_uid="1")
    told = replace(one, kind="not-performed", study_instance_uid="2", sop_instance_uid="2.25.5", sha256=sha("5"))
    said = [Note("LATERALITY_UNKNOWN", "2.1")]
    assert ledger.finish_job(job.job_id, job.fence, "{}", [used, told], said, [], at(100))
    return case_id


def test_a_study_that_was_not_used_is_not_called_delivered(ledger: Ledger) -> None:
    """Asked by its accession number, its UID or an image of it: why it was left out; the other study has its result."""
    case_id = half_used(ledger)
    assert ledger.read.case(case_id).state is C.DELIVERED
    for query in ("US1", "2", "2.1"):
        assert asked(ledger, query) == ("LATERALITY_UNKNOWN", Stage.GATE)
    for query in ("MG1", "1", "1.1"):
        assert asked(ledger, query) == ("NO_DESTINATION", Stage.DONE)


def test_what_an_image_stated_when_it_came_finds_its_case(ledger: Ledger) -> None:
    """A study with two accession numbers, or of which one image had no Patient ID, is found by each; spaces are no part of it."""
    first = new_case(ledger, "1.1", study_instance_uid="1", patient_id="", accession_number="")
    record(ledger, "1.2", study_instance_uid="1", patient_id="A", accession_number="ONE")
    record(ledger, "1.3", study_instance_uid="1", patient_id="A", accession_number="TWO")
    for query in ("A", "ONE", "TWO", " TWO\n"):
        assert [one.case.id for one in ledger.read.why(query, NOW).cases] == [first]


@pytest.mark.parametrize("others", [{"accession_number": "4711"}, {"patient_id": "4711", "accession_number": "Z"}])
def test_an_identifier_of_several_patients_says_so_first(ledger: Ledger, others: dict[str, str]) -> None:
    """One accession number of two patients, or one that is another's Patient ID: all are shown, and nobody's reason stands for all."""
    mine = new_case(ledger, "1.1", study_instance_uid="1", patient_id="X", accession_number="4711")
    theirs = new_case(ledger, "2.1", study_instance_uid="2", **{"patient_id": "Z", **others})
    found = ledger.read.why("4711", NOW)
    assert ({one.case.id for one in found.cases}, found.next_code) == ({mine, theirs}, "SEVERAL_PATIENTS")
