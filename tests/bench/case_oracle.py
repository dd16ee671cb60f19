"""What has to be true at the end of `python -m tests.bench.cases`, looked up in the ledger and the PACS by one who knows."""

import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from io import BytesIO
from typing import Any

from pydicom import dcmread

from casework.case import NOT_PERFORMED, TOLD, CaseState
from casework.reasons import REASONS
from tests.bench.case_world import Image

_C = CaseState
FINAL = {_C.DELIVERED, _C.REJECTED, _C.NEEDS_ATTENTION, _C.SUPERSEDED, _C.CLOSED, _C.RETRACTED}
UNDISTURBED = {"plain", "late", "unilateral", "two modalities"}


class Oracle:
    """Looks at the ledger and the PACS at the end, knowing the truth; every complaint has a kind and words."""

    def __init__(self, simulation: Any) -> None:
        self._sim = simulation
        self._read = simulation.ledger.read
        self.complaints: dict[str, list[str]] = defaultdict(list)
        self.states: Counter[str] = Counter()
        self.performed = self.told = 0
        self._truth = {(i.uid, i.sha256): i for p in simulation.people for i in p.images}
        self._kinds = {i.sha256: p.kind for p in simulation.people for i in p.images}
        self._one_sided = {i.sha256: p.sides for p in simulation.people for i in p.images if len(p.sides) == 1}

    def look(self) -> dict[str, int]:
        """All complaints by kind, zero where there is none."""
        views = [self._read.case_view(case.id) for case in self._sim.ledger.cases_in(*CaseState)]
        for view in views:
            self._one(view)
        self._lost(views)
        self._landed(views)
        for kind, count in (
            ("patients mixed", self._sim.engine.mixed_people),
            ("sides mixed", self._sim.engine.mixed_sides),
        ):
            self.complaints[kind] += ["in the engine"] * count
        if not self._read.verify_audit().ok:
            self.complaints["audit"].append("broken")
        kinds = (
            "patients mixed",
            "sides mixed",
            "lost",
            "duplicate results",
            "not final",
            "order",
            "silent",
            "audit",
            "unexpected",
        )
        return {kind: len(self.complaints[kind]) for kind in kinds}

    def _one(self, view: Any) -> None:
        """One revision: in a final state with a reason; one person, and the sides that its images truly show."""
        case = view.case
        self.states[f"{case.state} {case.reason}"] += 1
        if case.state not in FINAL or case.reason not in REASONS:
            self.complaints["not final"].append(f"{case.id} {case.state} {case.reason}")
        inputs = {
            row.instance.header.sop_instance_uid: self._sim.reading.images[row.instance.sha256] for row in view.inputs
        }
        if len(inputs) < len(view.inputs):
            self.complaints["duplicate results"].append(f"{case.id} holds two images under one UID")
        if not any(a.artefact.kind == "sr" for a in view.artefacts):
            self._silence(view, inputs)
            self._documents(view, inputs)
            if (
                inputs
                and view.newest_id == case.id
                and not {self._kinds[i.sha256] for i in inputs.values()}
                - {
                    "plain",
                    "late",
                    "unilateral",
                    "two modalities",
                }
            ):
                self._wanted(view, inputs)
            return
        self.performed += 1
        document = json.loads(view.result_json)
        used = [(inputs[place["source"]], place["side"]) for place in document["prepared"]]
        if len({image.person for image, _ in used}) > 1 or len({i.person for i in inputs.values()}) > 1:
            self.complaints["patients mixed"].append(f"{case.id} {sorted({i.person for i in inputs.values()})}")
        if any(side != image.side for image, side in used if image.side):
            self.complaints["sides mixed"].append(f"{case.id} an image counts for another side than it states")
        best = view.newest_id == case.id and case.state is CaseState.DELIVERED
        if best and any(side != image.true_side for image, side in used if image.side):
            self.complaints["sides mixed"].append(f"{case.id} the newest result is of a side that was corrected")
        for side in document["sides"]:
            shown = any(side["side"] == at for _, at in used)
            if not shown and (side["outcome"], side["probability"]) != ("insufficient", None):
                self.complaints["sides mixed"].append(f"{case.id} an answer for a side without images")
        if case.revision > 1 and not document.get("predecessors"):
            older = [row for row in view.revisions if row.revision < case.revision]
            if any(a.artefact.kind == "sr" for row in older for a in self._read.case_view(row.id).artefacts):
                self.complaints["order"].append(f"{case.id} names no predecessor")
        self._documents(view, inputs)

    def _silence(self, view: Any, inputs: Mapping[str, Image]) -> None:
        """A case that ended without a result says so in each of its studies, and the PACS has got it."""
        if view.case.state not in TOLD or view.newest_id != view.case.id or view.case.reason == "DISMISSED":
            return
        self.told += 1
        landed = {uid for *_, uid, _ in self._sim.pacs.log}
        told = {a.artefact.study_instance_uid for a in view.artefacts if a.artefact.sop_instance_uid in landed}
        for study in {image.study for image in inputs.values()} - told:
            self.complaints["silent"].append(f"{view.case.id} {view.case.reason} {study}")

    def _wanted(self, view: Any, inputs: Mapping[str, Image]) -> None:
        """A patient to whom nothing happened gets a result."""
        self.complaints["unexpected"].append(f"{view.case.id} {view.case.state} {view.case.reason} {len(inputs)}")

    def _documents(self, view: Any, inputs: Mapping[str, Image]) -> None:
        """Every document names the patient of its study's images, and no other. Where they are in doubt, one whom they name."""
        of: dict[str, set[tuple[str, str, str]]] = defaultdict(set)
        for image in inputs.values():
            of[image.study].add((image.patient_id, image.study, image.born))
        for row in view.artefacts:
            made = row.artefact
            if made.kind not in ("sr", "capture", "not-performed"):
                continue
            data = self._sim.spool.path(made.sha256).read_bytes()
            if data[128:132] == b"DICM":
                ds = dcmread(BytesIO(data), stop_before_pixels=True)
                named = (str(ds.PatientID), str(ds.StudyInstanceUID), str(ds.PatientBirthDate))
            else:
                said = json.loads(data)
                named = (said["patient"], made.study_instance_uid, said["born"])
            meant = of[made.study_instance_uid]
            if named not in meant:
                self.complaints["patients mixed"].append(f"{view.case.id} a document names {named}")

    def _lost(self, views: Sequence[Any]) -> None:
        """Whatever was acknowledged is in a case, taken out of one, or kept aside for a decision; every study is known."""
        newest = [view for view in views if view.newest_id == view.case.id]
        held = {(row.instance.header.sop_instance_uid, row.instance.sha256) for view in newest for row in view.inputs}
        held |= {(e.sop_instance_uid, e.sha256) for view in newest for e in view.exclusions}
        held |= {(d.subject, d.sha256) for view in newest for d in view.doubts}
        self.complaints["lost"] += [f"{uid}" for uid, sha256 in self._sim.acknowledged if (uid, sha256) not in held]
        studies = {study for view in newest for study in (s.study_uid for s in view.studies)}
        studies |= {e.study_instance_uid for view in newest for e in view.exclusions}
        sent = {i.study for p in self._sim.people for i in p.images}
        self.complaints["lost"] += [f"study {uid}" for uid in sent - studies]

    def _landed(self, views: Sequence[Any]) -> None:
        """The PACS holds one object under one UID, older revisions came first, and no image answers in two newest results."""
        bytes_of: dict[str, str] = {}
        last: dict[tuple[str, str], int] = {}
        words = {a.artefact.sop_instance_uid for v in views for a in v.artefacts if a.artefact.kind in NOT_PERFORMED}
        for root, study, revision, uid, sha256 in self._sim.pacs.log:
            if bytes_of.setdefault(uid, sha256) != sha256:
                self.complaints["duplicate results"].append(f"{uid} with other bytes")
            if uid in words:  # a result that was held for a doubt may follow the word that there is none
                continue
            if revision < last.get((root, study), 0):
                self.complaints["order"].append(f"{root} {study}: {revision} after {last[root, study]}")
            last[root, study] = max(revision, last.get((root, study), 0))
        answered: Counter[tuple[str, str]] = Counter()
        for view in views:
            per_study = Counter(a.artefact.study_instance_uid for a in view.artefacts if a.artefact.kind == "sr")
            if any(n > 1 for n in per_study.values()):
                self.complaints["duplicate results"].append(f"{view.case.id} has two reports for a study")
            if view.case.state is CaseState.DELIVERED and view.newest_id == view.case.id:
                answered.update({(r.instance.header.sop_instance_uid, r.instance.sha256) for r in view.inputs})
        self.complaints["duplicate results"] += [f"{uid} in two results" for (uid, _), n in answered.items() if n > 1]
