"""Asks the PACS whether they hold what somebody looks for here. Bounded: one thread for each PACS, seconds in all."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from casework.config import Destination, Settings
from casework.errors import CaseworkError
from casework.reasons import REASONS

if TYPE_CHECKING:
    from casework.dicom.search import FoundStudy

TIMEOUT_S = 4.0
IN_ALL_S = 8.0
STUDIES = 20


@dataclass(frozen=True, slots=True)
class HeldThere:
    """One study that a PACS holds. modalities: images by modality."""

    study_uid: str
    accession_number: str
    study_date: str
    modalities: dict[str, int]


@dataclass(frozen=True, slots=True)
class PacsAnswer:
    """What one PACS said. code: PACS_HOLDS_IT, PACS_HOLDS_NOTHING, or why it could not be asked."""

    destination: str
    code: str
    studies: tuple[HeldThere, ...] = ()


def ask_pacs(settings: Settings, term: str, in_all_s: float = IN_ALL_S) -> tuple[PacsAnswer, ...]:
    """Ask every PACS that may be asked, at once; one that doesn't answer in time is said to be unreachable."""
    from casework.dicom.query import is_key  # late: whoever only asks the ledger doesn't load a DICOM library

    places = [d for d in settings.destination if d.query or d.retrieve]
    if not places or not is_key(term):
        return ()
    answers = {place.name: PacsAnswer(place.name, "PEER_UNREACHABLE") for place in places}

    def ask(place: Destination) -> None:
        answers[place.name] = _ask(place, settings.dicom.ae_title, term)

    threads = [threading.Thread(target=ask, args=(place,), daemon=True, name=f"ask-{place.name}") for place in places]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(in_all_s / len(threads))
    return tuple(dict(answers).values())


def next_of(answers: Sequence[PacsAnswer]) -> str:
    """The code that a person should act on, "" when nobody was asked."""
    codes = [answer.code for answer in answers]
    for code in ("PACS_HOLDS_IT", *(code for code in codes if code != "PACS_HOLDS_NOTHING"), "PACS_HOLDS_NOTHING"):
        if code in codes:
            return code
    return ""


def _ask(place: Destination, calling: str, term: str) -> PacsAnswer:
    from casework.dicom.search import searching

    quick = replace(place, timeout_s=min(place.timeout_s, TIMEOUT_S))
    try:
        with searching(quick, calling) as search:
            found = search.of_term(term) or search.of_patient(term)
            held = tuple(_held(search.details(study)) for study in found[:STUDIES])
    except CaseworkError as error:
        return PacsAnswer(place.name, error.code if error.code in REASONS else "PEER_UNREACHABLE")
    except Exception:  # noqa: BLE001 - an answer that can't be read must not end the command
        return PacsAnswer(place.name, "PEER_FAILED")
    return PacsAnswer(place.name, "PACS_HOLDS_IT" if held else "PACS_HOLDS_NOTHING", held)


def _held(study: "FoundStudy") -> HeldThere:
    modalities: dict[str, int] = {}
    for series in study.series:
        modalities[series.modality[:16]] = modalities.get(series.modality[:16], 0) + series.count
    return HeldThere(study.study_uid, study.accession_number, study.study_date, modalities)
