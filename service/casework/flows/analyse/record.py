"""What a run needs of the record: the identity of its inputs, what is known before it, what it replaces; and its store."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO

from pydicom import dcmread
from pydicom.dataset import Dataset

from casework import __version__
from casework.case import Artefact, input_digest
from casework.config import Settings
from casework.flows.analyse.told import said_before
from casework.ledger import CaseRow, InstanceRow, Ledger
from casework.preprocess.prepared import VERSION
from casework.report import Rendered
from casework.result import Finding
from casework.spool import Spool

_FLUSHERS = 8  # threads that wait for the disk
_REPORTS = frozenset({"sr", "sr-comprehensive"})


class Record:
    """The ledger and the spool as one model package's runs see them."""

    def __init__(self, ledger: Ledger, spool: Spool, settings: Settings, package_sha256: str) -> None:
        self._ledger, self._spool, self._package_sha256 = ledger, spool, package_sha256
        self.destinations = [d.name for d in settings.destination if d.send]
        self._flushers = ThreadPoolExecutor(_FLUSHERS, thread_name_prefix="flush")
        self._pipeline = f"{VERSION} casework-{__version__}"

    def digest(self, case: CaseRow, rows: Sequence[InstanceRow]) -> str:
        """A later revision may have the images of an older one again; it names another predecessor, so it is another run."""
        run = self._pipeline if case.revision == 1 else f"{self._pipeline} revision {case.revision}"
        return input_digest([r.sha256 for r in rows], self._package_sha256, run)

    def said_before(self, case: CaseRow) -> tuple[Finding, ...]:
        """What the ledger knows of images that are not here, or are here in two versions."""
        read = self._ledger.read
        return said_before(self._ledger.case_studies(case.id), read.intake_findings(case.id), read.exclusions(case.id))

    def predecessors(self, case: CaseRow) -> tuple[tuple[str, str, str, str], ...]:
        """In each study the documents of this revision's earlier try, else of the newest older revision that has any there.

        What was withdrawn is nobody's predecessor, neither is what no destination ever got nor will get.
        """
        made: dict[str, list[tuple[str, str, str, str]]] = {}
        older: CaseRow | None = case
        while older is not None:
            rows = self._ledger.read.artefacts_of(older.id)
            artefacts = [r.artefact for r in rows if not r.withdrawn and (r.issued or not self.destinations)]
            found: dict[str, list[tuple[str, str, str, str]]] = {}
            for a in artefacts:
                if a.kind == "not-performed" or (a.kind in _REPORTS and older is not case):
                    document = (a.study_instance_uid, a.series_instance_uid, a.sop_class_uid, a.sop_instance_uid)
                    found.setdefault(a.study_instance_uid, []).append(document)
            made = {**found, **made}
            older = self._ledger.read.case(older.predecessor) if older.predecessor else None
        return tuple(document for study in sorted(made) for document in made[study])

    def reported(self, case: CaseRow, rows: Sequence[InstanceRow]) -> set[str]:
        """Studies whose newest word is an older revision's report, made from images of theirs that are all still in the case.

        That report stands when a newer revision prefers another study's images: its study was analysed.
        """
        here = {(r.header.sop_instance_uid, r.sha256) for r in rows}
        found, seen, older = set[str](), set[str](), case.predecessor
        while older is not None:
            made = [r.artefact for r in self._ledger.read.artefacts_of(older) if not r.withdrawn]
            reports = {a.study_instance_uid for a in made if a.kind in _REPORTS}
            used = self._ledger.case_inputs(older)
            gone = {r.header.study_instance_uid for r in used if (r.header.sop_instance_uid, r.sha256) not in here}
            found |= reports - seen - gone
            seen |= reports | {a.study_instance_uid for a in made if a.kind == "not-performed"}
            older = self._ledger.read.case(older).predecessor
        return found

    def header(self, artefact: Artefact) -> Dataset:
        """What a stored object says, without its pixels.

        Raises:
            Defect: SPOOL_CORRUPT.
        """
        return dcmread(BytesIO(self._spool.whole(artefact.sha256)), stop_before_pixels=True)

    def store(self, rendered: Sequence[Rendered]) -> list[Artefact]:
        """Make all objects durable together: their flushes overlap."""
        digests = self._flushers.map(self._spool.put, [one.data for one in rendered])
        return [_artefact(one, digest) for one, digest in zip(rendered, digests, strict=True)]


def _artefact(one: Rendered, sha256: str) -> Artefact:
    return Artefact(
        kind=one.kind,
        media_type=one.media_type,
        study_instance_uid=one.study_instance_uid,
        series_instance_uid=one.series_instance_uid,
        sop_class_uid=one.sop_class_uid,
        sop_instance_uid=one.sop_instance_uid,
        sha256=sha256,
        size=len(one.data),
        label=one.label,
    )
