"""A thousand simulated patients through the real ledger, assembly and analysis: nobody is mixed, lost or answered twice.

    python -m tests.bench.cases [--patients 1000] [--seed N] [--database sqlite|postgresql|both] [--json FILE]

Real: the ledger on SQLite and PostgreSQL (intake's `record`, doubts, exclusions, jobs, deliveries), the keeper's assembly with a
policy and a clock of its own, `Analyser` from claim to `finish_job`, the choice of images (`preprocess.select`), readout,
findings, result document; the word that nothing was analysed; for every `--render-every`th run of either kind also the
reports and captures, with their own check.
Stood in for: sockets, files and pixels (images are headers), the network (a runner that reads from each tensor whose
image and which side it is), the PACS (a dictionary that fails now and then), and the other runs' reports (one small object
per study). Controls switch a guard off; the same oracle has to see each of them.
"""

import argparse
import contextlib
import hashlib
import json
import logging
import multiprocessing
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast
from unittest import mock

import numpy as np
import structlog
from pydicom.dataset import Dataset

from casework.case import CaseState, DeliveryState, Verdict
from casework.config import Assembly, Destination, Policy, Settings, Storage, Work
from casework.engine.bundle import ModelPackage, open_package
from casework.engine.passport import Passport
from casework.engine.runner import SideInputs, SideOutputs
from casework.errors import Refused
from casework.flows.analyse import Analyser, Inputs, Stopwatch
from casework.flows.analyse.inputs import Ready
from casework.flows.analyse.tell import Teller
from casework.flows.assemble import Assembler
from casework.geometry import Affine2
from casework.ledger import InstanceRow, Ledger
from casework.ledger import assembly as homes
from casework.modelspec import CHANNELS, SLOTS
from casework.preprocess.prepared import PreparedImage
from casework.preprocess.select import choose
from casework.report import Rendered, Silent
from casework.report.beside import ReportProcess
from casework.report.uid import SR_CLASS, TEXT_CLASS
from casework.result import CaseResult, Side
from casework.spool import Spool
from tests.bench.case_oracle import Oracle
from tests.bench.case_world import Image, Mix, Patient, population

SIZE = 16  # of a tensor; the network is stood in for
START = datetime(2026, 1, 12, tzinfo=UTC)
GROUP = 25  # patients whose sendings are interleaved
LOOK_EVERY = 8  # sendings
POLICY = Policy(wait_mr_h=24, wait_us_h=12)


class Reading:
    """What the analysis reads of stored images: real facts, the real choice, and tensors that say whose they are."""

    def __init__(self) -> None:
        self.images: dict[str, Image] = {}  # by SHA-256
        self.sides = {"R": Side.RIGHT, "L": Side.LEFT}

    def facts_of(self, rows: Sequence[InstanceRow], _: Callable[[], None]) -> tuple[dict[str, Any], dict[str, str]]:
        """Facts by SOP Instance UID."""
        return {row.header.sop_instance_uid: self.images[row.sha256].facts() for row in rows}, {}

    def header(self, row: InstanceRow) -> Dataset:
        """The header of an instance."""
        return self.images[row.sha256].dataset()

    def ready(self, rows: Sequence[InstanceRow], *, mri: bool = True, pause: Callable[[], None]) -> Ready:
        """The plan, and one small tensor for each place in it."""
        facts, _ = self.facts_of(rows, pause)
        of = {row.header.sop_instance_uid: self.images[row.sha256] for row in rows}
        plan = choose(list(facts.values()))
        places: list[tuple[Side, str, str, tuple[str, ...]]] = [
            (side, "MG", slot, (uid,)) for (side, slot), uid in plan.mammograms.items()
        ]
        places += [
            (s, "US", slot, (u,))
            for s, uids in plan.ultrasound.items()
            for slot, u in zip(SLOTS["US"], uids, strict=False)
        ]
        if plan.mri is not None and mri:
            uids = tuple(sorted(plan.mri.instances))
            places += [(s, "MR", slot, uids) for s in self.sides.values() for slot in SLOTS["MR"]]
        images = (
            {}
            if plan.stop
            else {(s, m, slot): _tensor(s, m, slot, [of[u] for u in uids]) for s, m, slot, uids in places}
        )
        return Ready(plan, images, facts, plan.reasons, ())


def _tensor(side: Side, modality: str, slot: str, sources: Sequence[Image]) -> PreparedImage:
    """A picture whose first pixel tells the person and whose second one tells the side that its image states."""
    tensor = np.zeros((CHANNELS[modality], SIZE, SIZE), np.float32)
    tensor[0, 0, 0] = (sources[0].person + 5000) / 10_000
    tensor[0, 0, 1] = {"R": 0.25, "L": 0.75}.get(sources[0].side, 0.5)
    return PreparedImage(
        side, modality, slot, sources[0].study, tensor, np.full((24, 24), 90, np.uint8),
        Affine2.resize((SIZE, SIZE), (24, 24)), Affine2.resize((24, 24), (128, 128)), tuple(i.uid for i in sources),
    )  # fmt: skip


class Engine:
    """In place of the network: deterministic, and it counts batches in which one side has images of two people or sides."""

    def __init__(self, package: ModelPackage) -> None:
        self._temperature = float(getattr(package.spec, "temperature", 1.0) or 1.0)
        self.mixed_people = self.mixed_sides = self.runs = 0

    def describe(self) -> str:
        """Say that it is none."""
        return "simulation"

    def run(self, inputs: SideInputs) -> SideOutputs:
        """Look at each side's tensors; the logit is a function of what is there."""
        self.runs += 1
        masks = {m: inputs.masks[m] > 0 for m in SLOTS}
        count = next(iter(masks.values())).shape[0]
        people, sides = set(), [set[float]() for _ in range(count)]
        for m, mask in masks.items():
            for b, k in np.argwhere(mask):
                people.add(round(float(inputs.images[m][b, k, 0, 0, 0]), 4))
                sides[b].add(round(float(inputs.images[m][b, k, 0, 0, 1]), 4))
        self.mixed_people += len(people) > 1
        self.mixed_sides += any(len(s - {0.5}) > 1 for s in sides) or (
            count == 2 and bool((sides[0] & sides[1]) - {0.5})
        )
        evidence = {m: mask.sum(axis=1).astype(np.float32) * np.float32(0.3) for m, mask in masks.items()}
        logit = np.sum(list(evidence.values()), axis=0).astype(np.float32)
        heat = {}
        for m, mask in masks.items():
            heat[m] = np.zeros((*mask.shape, 4, 4), np.float32)
            heat[m][..., 1, 2] = mask * np.float32(0.3)
        present = tuple(tuple(m for m in SLOTS if masks[m][b].any()) for b in range(count))
        return SideOutputs(
            logit, (1 / (1 + np.exp(-logit / self._temperature))).astype(np.float32), evidence, heat, present
        )


@dataclass
class Pacs:
    """What arrived where the results go, in order: (root, study, revision, SOP Instance UID, SHA-256)."""

    chance: random.Random
    log: list[tuple[str, str, int, str, str]]

    def turn(self, ledger: Ledger, now: datetime) -> None:
        """Take what is offered; one in eight sendings fails, one in sixteen arrives and the answer is lost."""
        ledger.promote_due(now)
        while claim := ledger.claim_delivery("pacs", "sim", 60, now):
            draw, state = self.chance.random(), DeliveryState.STORED
            if draw < 0.125:
                state = DeliveryState.RETRY_WAIT
            elif draw < 0.19:
                state = DeliveryState.UNKNOWN
            if state is not DeliveryState.RETRY_WAIT:
                case, made = ledger.read.case(claim.case_id), claim.artefact
                place = (case.root_id, made.study_instance_uid, case.revision, made.sop_instance_uid, made.sha256)
                self.log.append(place)
            code = "DELIVERED" if state is DeliveryState.STORED else "PEER_OUTCOME_UNKNOWN"
            ledger.finish_delivery(claim.delivery_id, claim.fence, state, "", code, now + timedelta(minutes=1), now)


class Analysis(Analyser):
    """The analysis with small reports, but for every so manieth run."""

    full, runs = 0, 0

    def _results(self, result: CaseResult, sources: Mapping[str, Dataset], watch: Stopwatch) -> list[Rendered]:
        """The real reports and captures with their check; else one small object for each study, with its sources' identity."""
        self.runs += 1
        if self.full and self.runs % self.full == 0:
            return super()._results(result, sources, watch)
        made = []
        for study in dict.fromkeys(i.study_instance_uid for i in result.images):
            reference = sources[next(i.sources[0] for i in result.images if i.study_instance_uid == study)]
            uid = f"{study}.{int(result.input_digest[:12], 16)}"
            named = {"patient": str(reference.PatientID), "born": str(reference.PatientBirthDate)}
            where = (study, f"{uid}.1", SR_CLASS, f"{uid}.1.1", "SR")
            data = json.dumps({**named, "revision": result.revision}).encode()
            made.append(Rendered("sr", "application/dicom", *where, data))
        sides = [
            {
                "side": s.side.value,
                "outcome": s.outcome.value,
                "probability": s.probability,
                "modalities": [*s.modalities],
            }
            for s in result.sides
        ]
        document = {"performed": True, "sides": sides, "predecessors": [*result.predecessors]}
        whole = json.dumps(document).encode()
        return [*made, Rendered("result-json", "application/json", "", "", "", "", "result", whole)]


class Telling(Teller):
    """The word that nothing was analysed, small, but for every so manieth verdict."""

    full, runs = 0, 0

    def _documents(self, result: CaseResult, studies: Sequence[Silent], now: datetime) -> list[Rendered]:
        """The real documents with their check; else one small object for each study, with its images' identity."""
        self.runs += 1
        if self.full and self.runs % self.full == 0:
            return super()._documents(result, studies, now)
        made = []
        for one in studies:
            uid = f"{one.study}.{int(result.input_digest[:12], 16)}.{len(result.stopped[0])}{result.stopped[0]}"
            uid = f"{one.study}.{int(hashlib.sha256(uid.encode()).hexdigest()[:12], 16)}.9"
            named = {"patient": str(one.reference.PatientID), "born": str(one.reference.PatientBirthDate)}
            data = json.dumps({**named, "revision": result.revision, "why": result.stopped}).encode()
            where = (one.study, f"{uid}.1", TEXT_CLASS, f"{uid}.1.1", "not performed")
            made.append(Rendered("not-performed", "application/dicom", *where, data))
        return made


class Simulation:
    """One hospital."""

    def __init__(self, url: str, root: Path, seed: int, people: list[Patient], render_every: int) -> None:
        self.now = START
        self.chance = random.Random(seed)
        self.people = people
        self.ledger = Ledger.open(url, max_attempts=3)
        self.ledger.migrate()
        self.settings = replace(
            Settings(),
            storage=Storage(root=str(root), fsync=False),
            assembly=Assembly(quiet_s=60),
            policy=POLICY,
            work=Work(heartbeat_s=1800, lease_s=3600),
            destination=(Destination("pacs", ae_title="PACS"),),
        )
        package = open_package(Path(__file__).parents[2] / "models" / "cman-tiny")
        package = replace(package, spec=replace(package.spec, input_size=SIZE))
        self.reading, self.engine, self.pacs = Reading(), Engine(package), Pacs(self.chance, [])
        self.spool = Spool(root, fsync=False)
        inputs = cast(Inputs, self.reading)
        self.analyser = Analysis(
            self.ledger,
            self.spool,
            inputs,
            package=package,
            runner=self.engine,
            passport=Passport("cpu", "stand-in", "none", "", "fp32", package.sha256, ""),
            reports=ReportProcess(),
            settings=self.settings,
            now=lambda: self.now,
        )
        record, who = self.analyser._record, self.analyser._identity
        self.analyser._teller = self.telling = Telling(self.ledger, inputs, record, who, self.settings)
        self.analyser.full = self.telling.full = render_every
        self.keeper = Assembler(self.ledger, self.settings)
        self.clock = 0.0
        self.verdicts: Counter[str] = Counter()
        self.wrong = {uid for patient in self.people for uid in patient.exclude}  # what a person would take out
        self.acknowledged: dict[tuple[str, str], Verdict] = {}

    def close(self) -> None:
        """End it."""
        self.keeper.close()
        self.ledger.close()

    # --- the course of things -------------------------------------------------------------------------------

    def run(self) -> None:
        """All patients, in groups whose sendings are interleaved."""
        for first in range(0, len(self.people), GROUP):
            self._group(self.people[first : first + GROUP])

    def _group(self, people: Sequence[Patient]) -> None:
        begin = self.now
        sendings = sorted(
            ((at, n, images) for n, p in enumerate(people) for at, images in p.sendings), key=lambda s: s[:2]
        )
        for number, (at, _, images) in enumerate(sendings):
            self._pass(begin + timedelta(hours=at))
            self._send(images, f"a{first_uid(images)}.{number}")
            if number % LOOK_EVERY == 0:
                self._look()
        for hours in (0.1, 13.0, 12.0, 1.0):
            self._pass(self.now + timedelta(hours=hours))
            self._look()
        self._decide(people)
        for hours in (
            0.1,
            25.0,
            *[1.0] * 8,
        ):  # long enough for what fails one time in five, and for the notes that follow
            self._pass(self.now + timedelta(hours=hours))
            self._look()

    def _pass(self, until: datetime) -> None:
        self.clock += max((until - self.now).total_seconds(), 0.0)
        self.now = max(until, self.now)

    def _send(self, images: Sequence[Image], association: str) -> None:
        self.reading.images |= {image.sha256: image for image in images}
        recorded = self.ledger.record([image.arrival(association, self.now) for image in images], self.now)
        for image, answer in zip(images, recorded, strict=True):
            self.verdicts[answer.verdict.value] += 1
            if answer.verdict is not Verdict.DUPLICATE:
                self.acknowledged[image.uid, image.sha256] = answer.verdict

    def _look(self) -> None:
        """What the keeper, the worker and the sender do meanwhile."""
        self.keeper.step(self.now, self.clock)
        while self.chance.random() < 0.97 and self.analyser.run_next("sim"):
            pass
        self.pacs.turn(self.ledger, self.now)

    def _decide(self, people: Sequence[Patient]) -> None:
        """A person looks at what needs one; some of it stays undecided."""
        known = {image.uid: p for p in people for image in p.images}
        for case in self.ledger.cases_in(CaseState.NEEDS_ATTENTION):
            view = self.ledger.read.case_view(case.id)
            if view.newest_id != case.id:
                continue
            patient = next(
                (
                    known[i.instance.header.sop_instance_uid]
                    for i in view.inputs
                    if i.instance.header.sop_instance_uid in known
                ),
                None,
            )
            if patient is not None:
                with contextlib.suppress(Refused):
                    self._decide_one(case.id, view, patient)
        for case_id, uid, _ in self.ledger.corrections():
            if uid in known and known[uid].accept:
                with contextlib.suppress(Refused):
                    self.ledger.decide(case_id, "accepted", "sim", self.now, uid)

    def _decide_one(self, case_id: str, view: Any, patient: Patient) -> None:
        for row in view.inputs:
            uid = row.instance.header.sop_instance_uid
            if uid in self.wrong:
                self.ledger.exclude(case_id, uid, "EXCLUDED_WRONG_PATIENT", "sim", self.now)
        doubts = [d for d in view.doubts if not d.decision]
        if any(d.sha256 for d in doubts):
            if patient.accept:
                self.ledger.decide(case_id, "accepted", "sim", self.now)
        elif doubts:
            self.ledger.decide(case_id, "dismissed", "sim", self.now)
        elif view.case.reason == "PATIENT_ID_MISSING" and patient.retry:
            self.ledger.retry_case(case_id, "sim", self.now)


def first_uid(images: Sequence[Image]) -> str:
    """A name for an association."""
    return images[0].uid


# --- controls: each takes one guard away --------------------------------------------------------------------------


@contextlib.contextmanager
def by_accession() -> Iterator[None]:
    """Studies are joined by accession number, as if that named a patient."""
    real = homes.Assembler._root_for

    def root_for(self: Any, header: Any, received_at: datetime) -> tuple[str, str, str]:
        same = replace(header, patient_id=header.accession_number[:-2] or "none", issuer_of_patient_id="")
        return real(self, same, received_at)

    with (
        mock.patch.object(homes.Assembler, "_root_for", root_for),
        mock.patch.object(homes.Home, "admits", return_value=True),
    ):
        yield


@contextlib.contextmanager
def without_identity() -> Iterator[None]:
    """Nobody compares whom an image names: a study belongs to whoever came first, and no conflict stops a case."""
    from casework.preprocess import select

    with (
        mock.patch.object(homes.Home, "admits", return_value=True),
        mock.patch.object(select, "_conflict", return_value=""),
    ):
        yield


@contextlib.contextmanager
def without_sides() -> Iterator[None]:
    """Every mammogram and ultrasound image counts for the right side, whatever it states."""
    real = Image.facts

    def facts(self: Image) -> Any:
        return replace(real(self), laterality="R" if self.side else "", laterality_conflict=False)

    with mock.patch.object(Image, "facts", facts):
        yield


@dataclass(frozen=True)
class Control:
    """One guard taken away, and patients of whom each one walks into the trap: whether it is seen is no matter of luck."""

    without: Callable[[], contextlib.AbstractContextManager[None]]
    patients: Mix
    seen_as: str = "patients mixed"


CONTROLS = {
    "grouped by accession number": Control(by_accession, Mix({"plain": 1}, alike=True)),
    "identity not compared": Control(without_identity, Mix({"foreign image": 1, "somebody else's image": 1})),
    "sides not read": Control(without_sides, Mix({"plain": 1, "wrong side": 1}), seen_as="sides mixed"),
}


def simulate(
    url: str, root: Path, seed: int, count: int, render_every: int = 0, *, control: str = ""
) -> dict[str, Any]:
    """Run one hospital, perhaps without a guard, and ask the oracle."""
    with contextlib.ExitStack() as stack:
        mix = Mix()
        if control:
            mix = CONTROLS[control].patients
            stack.enter_context(CONTROLS[control].without())
        return _simulate(url, root, seed, population(seed, count, mix), render_every)


def _simulate(url: str, root: Path, seed: int, people: list[Patient], render_every: int) -> dict[str, Any]:
    simulation = Simulation(url, root, seed, people, render_every)
    try:
        simulation.run()
        oracle = Oracle(simulation)
        found = oracle.look()
        return {
            "patients": len(people),
            "images sent": sum(len(p.images) for p in simulation.people),
            "sendings": sum(len(p.sendings) for p in simulation.people),
            "verdicts": dict(simulation.verdicts),
            "revisions": sum(oracle.states.values()),
            "performed": oracle.performed,
            "told that nothing was analysed": oracle.told,
            "rendered in full": simulation.analyser.runs // render_every if render_every else 0,
            "objects at the PACS": len({uid for *_, uid, _ in simulation.pacs.log}),
            "states": dict(sorted(oracle.states.items())),
            "complaints": found,
            "examples": {kind: words[:3] for kind, words in oracle.complaints.items() if words},
        }
    finally:
        simulation.close()


def hospital(database: str, seed: int, count: int, render_every: int, control: str = "") -> dict[str, Any]:
    """One run with a database of its own, in a folder in memory where there is one; with its times."""
    from tests.ledger.postgres_cluster import Cluster

    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    memory = Path("/dev/shm")  # noqa: S108 - a folder of its own below it
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None)))
        url = f"sqlite:///{folder / 'ledger' / 'ledger.db'}"
        if database == "postgresql":
            cluster = Cluster()
            stack.callback(cluster.stop)
            url = cluster.url("postgres")
        began, cpu = time.monotonic(), time.process_time()
        found = simulate(url, folder, seed, count, render_every, control=control)
        times = {"seconds": time.monotonic() - began, "cpu_seconds": time.process_time() - cpu}
    return {**found, **{name: round(value, 1) for name, value in times.items()}}


def main() -> int:
    """Run the simulation and its controls; 1 when a promise was broken or a control was not seen."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--patients", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument("--database", choices=["sqlite", "postgresql", "both"], default="both")
    parser.add_argument("--render-every", type=int, default=50, help="0: never")
    parser.add_argument("--control-patients", type=int, default=20)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    names = ["sqlite", "postgresql"] if options.database == "both" else [options.database]
    report: dict[str, Any] = {"seed": options.seed, "runs": {}, "controls": {}}
    print(f"seed {options.seed}", flush=True)
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as processes:
        runs = {n: processes.submit(hospital, n, options.seed, options.patients, options.render_every) for n in names}
        few = options.control_patients
        controls = {c: processes.submit(hospital, "sqlite", options.seed, few, 0, c) for c in CONTROLS}
        for name, run in runs.items():
            report["runs"][name] = run.result()
            print(f"{name}: {json.dumps(run.result(), indent=1)}", flush=True)
        for name, run in controls.items():
            report["controls"][name] = run.result()["complaints"]
            print(f"control, {name}, {few} patients: {run.result()['complaints']}", flush=True)
    if options.json:
        options.json.write_text(json.dumps(report, indent=1))
    broken = sum(n for run in report["runs"].values() for n in run["complaints"].values())
    unseen = [name for name, seen in report["controls"].items() if not seen[CONTROLS[name].seen_as]]
    print(f"{broken} promises broken; controls not seen: {unseen or 'none'}")
    return 1 if broken or unseen else 0


if __name__ == "__main__":
    sys.exit(main())
