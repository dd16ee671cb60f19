"""The input gate's table and each of its checks: found, not found, not available; and what a site may change."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw

from casework.checks import CHECKS, CONFLICTS, ROWS, Severity, severities
from casework.config import load
from casework.errors import Defect, Refused
from casework.geometry import Affine2
from casework.modelspec import SLOTS, TrainedOn
from casework.preprocess import gate, quality, ultrasound
from casework.preprocess.facts import InstanceFacts
from casework.preprocess.prepared import PreparedImage
from casework.reasons import REASONS
from casework.result import Check, Finding, Side
from tests.analyse.dicoms import US_CLASS, facts

TRAINED = TrainedOn(
    age_years=(25.0, 88.0), sexes=("F",), manufacturers={"MG": ("Known",)}, spacing_mm={"MG": (0.04, 0.5), "MR": (0.9, 5.1)}
)  # fmt: skip


def image(of: InstanceFacts, slot: str = "", **notes: str) -> PreparedImage:
    """A prepared image with notes; its pixels are not looked at."""
    grid = np.zeros((4, 4), np.float32)
    known = {"chest_wall": "right", "wall_ratio": "8.0", "orientation": "as usual", "clipped": "0.001"} | notes
    same = Affine2.identity()
    return PreparedImage(
        side=Side(of.laterality or "R"), modality=of.modality, slot=slot or of.view, study_instance_uid="1.9",
        tensor=grid[None], picture=grid.astype(np.uint8), tensor_to_picture=same, picture_to_source=same,
        sources=(of.sop_instance_uid,), notes=known,
    )  # fmt: skip


def case(*images: PreparedImage, of: list[InstanceFacts], **known: Any) -> gate.Seen:
    """A case as the gate sees it."""
    values: dict[str, Any] = {
        "images": {(i.side, i.modality, i.slot): i for i in images}, "facts": {f.sop_instance_uid: f for f in of},
        "reasons": {}, "remarks": (), "before": (), "enough": True, "stop": "", "trained": TRAINED,
    }  # fmt: skip
    return gate.Seen(**(values | known))


GOOD = facts(chest_wall="right", manufacturer="Known", patient_age_years=54.0, spacing_mm=(0.07, 0.07))


def found(seen: gate.Seen, code: str, *overrides: str) -> Check:
    """One check's outcome."""
    checks = gate.assess(seen, severities(overrides))
    assert [c.code for c in checks] == [row.code for row in ROWS]
    return next(c for c in checks if c.code == code)


def one(notes: dict[str, str] | None = None, **known: Any) -> gate.Seen:
    """A case of one mammogram."""
    of = replace(GOOD, **known)
    return case(image(of, **(notes or {})), of=[of])


def test_the_table_is_whole() -> None:
    """Every check has words, conflicts always stop, and nothing that stops a case by default is left unsaid."""
    assert len(CHECKS) == len(ROWS)
    assert all(code in REASONS for row in ROWS for code in (row.code, *row.codes))
    assert {row.code for row in ROWS if row.fixed} == CONFLICTS | {"NO_USABLE_IMAGE"}
    assert {row.severity for row in ROWS if row.fixed} == {Severity.STOP}


@pytest.mark.parametrize(
    ("seen", "code", "subject"),
    [
        (one({"chest_wall": "left", "orientation": "unexpected"}), "SIDE_PIXELS_CONFLICT", "1.1"),
        (one({"chest_wall": "left", "orientation": "unexpected"}, chest_wall=""), "ORIENTATION_UNEXPECTED", "1.1"),
        (one({"chest_wall": "left", "orientation": "unexpected", "wall_ratio": "1.2"}), "ORIENTATION_UNEXPECTED", "1.1"),
        (one(implant=True), "IMPLANT_PRESENT", "1.1"),
        (one({"clipped": "0.06"}), "CLIPPED", "1.1"),
        (one(), "VIEW_MISSING", "R"),
        (one(), "MODALITY_MISSING", "MG"),
        (one(manufacturer="Other"), "SCANNER_UNKNOWN", "MG"),
        (one(patient_age_years=17.0), "AGE_OUTSIDE", ""),
        (one(patient_sex="M"), "SEX_OUTSIDE", ""),
        (one(spacing_mm=(0.9, 0.9)), "SPACING_UNUSUAL", "1.1"),
        (one(synthetic=True), "SYNTHETIC_USED", "1.1"),
        (replace(one(), stop="PATIENT_IDENTITY_CONFLICT"), "PATIENT_IDENTITY_CONFLICT", ""),
        (case(of=[replace(GOOD, laterality="", laterality_conflict=True)]), "LATERALITY_CONFLICT", "1.1"),
        (case(of=[replace(GOOD, patient_name="Wang^A"), replace(GOOD, sop_instance_uid="1.2", patient_name="Li^B")]), "NAMES_DIFFER", ""),
        (one(chest_wall="left"), "ORIENTATION_UNEXPECTED", "1.1"),
        (replace(one(), reasons={"1.7": "BODY_PART_OTHER"}), "BODY_PART_OTHER", "1.7"),
        (replace(one(), reasons={"1.7": "MR_SIDE_NOT_READ"}), "MR_SIDE_NOT_READ", "1.7"),
        (replace(one(), enough=False), "NO_USABLE_IMAGE", ""),
        (case(of=[replace(GOOD, modality="MR")], reasons={"1.1": "MR_NOT_DYNAMIC"}), "PHASES_INCOMPLETE", "MR"),
        (replace(one(), reasons={"1.7": "SYNTHETIC_ONLY"}), "SYNTHETIC_ONLY", "1.7"),
        (replace(one(), reasons={"1.7": "DECODER_CRASHED"}), "PIXELS_UNDECODABLE", "1.7"),
        (replace(one(), before=(Finding("COUNT_INCOMPLETE", "1.9", "3 of 4"),)), "COUNT_INCOMPLETE", "1.9"),
        (replace(one(), before=(Finding("PATIENT_IDENTITY_CONFLICT", "1.9"),)), "UID_CONFLICT", "1.9"),
        (replace(one(), remarks=(Finding("GEOMETRY_IRREGULAR", "1.8", "gap between slices"),)), "GEOMETRY_IRREGULAR", "1.8"),
    ],
)  # fmt: skip
def test_each_check_finds_what_it_looks_for(seen: gate.Seen, code: str, subject: str) -> None:
    """The finding is there with its subject and the table's severity; a sound image has none of it but what is missing."""
    check = found(seen, code)
    assert (check.severity, check.findings[0].subject) == (CHECKS[code].severity, subject)
    missing = {"VIEW_MISSING", "MODALITY_MISSING"}
    assert code in missing or found(one(), code).severity in (Severity.PASS, Severity.NOT_AVAILABLE)


def test_a_breast_whose_mri_was_not_read_is_not_called_missing() -> None:
    """It was there: the report says that it was not read, and MODALITY_MISSING is not said of it."""
    right, left = (replace(GOOD, modality="MR", laterality=s, sop_instance_uid=s) for s in "RL")
    seen = case(image(right, SLOTS["MR"][0]), of=[right, left], reasons={"R": "", "L": "MR_SIDE_NOT_READ"})
    assert found(seen, "MR_SIDE_NOT_READ").severity == Severity.WARN
    assert "MR" not in {f.subject for f in found(seen, "MODALITY_MISSING").findings}


def test_what_an_mri_measures_is_compared_with_its_limits() -> None:
    """Motion above the limit and thick slices are found, with the number; at rest nothing is."""
    of = replace(GOOD, modality="MR", view="")
    notes = {"motion_mm": "6.1", "spacing_mm": "7.0,0.9,0.9", "phases": "5", "clipped": "0.0"}
    moved = case(image(of, "AX", **notes), of=[of])
    assert [found(moved, c).findings for c in ("MOTION_SEEN", "SPACING_UNUSUAL", "CLIPPED")] == [
        (Finding("MOTION_SEEN", "MR", "6.1"),), (Finding("SPACING_UNUSUAL", "MR", "7.000 mm"),), (),
    ]  # fmt: skip
    still = case(image(of, "AX", **notes | {"motion_mm": "2.0", "spacing_mm": "3.0,0.9,0.9"}), of=[of])
    assert [found(still, c).severity for c in ("MOTION_SEEN", "SPACING_UNUSUAL")] == [Severity.PASS] * 2
    assert found(still, "MOTION_SEEN").value == "MR 2"


def test_what_is_not_known_is_never_a_pass() -> None:
    """Without a measurement, a statement of the header or of the manifest a check is not available."""
    bare = replace(GOOD, patient_age_years=None, patient_sex="", spacing_mm=())
    seen = case(image(bare), of=[bare], trained=TrainedOn())
    codes = ["AGE_OUTSIDE", "SEX_OUTSIDE", "SPACING_UNUSUAL", "SCANNER_UNKNOWN", "MOTION_SEEN", "INPUT_UNUSUAL"]
    assert {found(seen, c).severity for c in codes} == {Severity.NOT_AVAILABLE}
    stopped = gate.assess(replace(seen, stop="LATERALITY_CONFLICT"), severities(()))
    assert {c.severity for c in stopped if c.code not in (*CONFLICTS, "IMPLANT_PRESENT")} == {Severity.NOT_AVAILABLE}


def test_the_distance_is_added_when_the_encoders_have_run() -> None:
    """Above 1 it is a finding, below a pass with its value, and without a reference it stays not available."""
    rules = severities(())
    checks = gate.assess(one(), rules)

    def of(distances: dict[str, float]) -> Check:
        return next(c for c in gate.with_distance(checks, distances, rules) if c.code == "INPUT_UNUSUAL")

    assert (of({}).severity, of({"MG": 0.4}).severity) == (Severity.NOT_AVAILABLE, Severity.PASS)
    assert of({"MG": 0.4, "US": 1.7}).findings == (Finding("INPUT_UNUSUAL", "US", "1.70"),)


def test_a_site_may_change_what_a_finding_leads_to() -> None:
    """Stricter and milder by configuration, in a file and in the environment; the gravest stop comes first."""
    assert found(one(), "VIEW_MISSING", "VIEW_MISSING=stop").severity == Severity.STOP
    assert found(one(implant=True), "IMPLANT_PRESENT", "IMPLANT_PRESENT=warn").severity == Severity.WARN
    seen = one({"chest_wall": "left", "orientation": "unexpected"}, implant=True)
    assert gate.stops(gate.assess(seen, severities(()))) == ("SIDE_PIXELS_CONFLICT", "IMPLANT_PRESENT")
    settings = load(environ={"CASEWORK_GATE_SEVERITY": "VIEW_MISSING=stop,IMPLANT_PRESENT=warn"})
    assert severities(settings.gate.severity)["VIEW_MISSING"] is Severity.STOP


@pytest.mark.parametrize("code", sorted({r.code for r in ROWS if r.fixed}))
def test_a_safety_stop_can_not_be_weakened(code: str) -> None:
    """Neither by a warning nor by silence: the service does not start."""
    for wanted in ("warn", "pass", "not_available", ""):
        with pytest.raises(Defect, match="CONFIG_INVALID"):
            load(environ={"CASEWORK_GATE_SEVERITY": f"{code}={wanted}"})
    assert severities([f"{code}=stop"])[code] is Severity.STOP


@pytest.mark.parametrize(
    "override", ["NO_SUCH=stop", "VIEW_MISSING=pass", "VIEW_MISSING", "=stop", "VIEW_MISSING=STOP!"]
)
def test_an_unknown_override_is_refused_at_load(override: str) -> None:
    """A misspelt check must not pass for a stricter one."""
    with pytest.raises(Defect, match="CONFIG_INVALID"):
        load(environ={"CASEWORK_GATE_SEVERITY": override})


# --- measurements -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("moved_px", [0, 6, 12])
def test_motion_is_measured_although_contrast_agent_came(moved_px: int) -> None:
    """The shift between two volumes comes out within 2.1 mm, with a bright lesion in the later one."""
    rng = np.random.default_rng(3)
    first = np.zeros((12, 160, 200), np.float32)
    first[:, 30:130, 30:170] = 80 + 10 * rng.standard_normal((12, 100, 140))
    first[:, 60:90, 60:90] += 60
    later = np.roll(first, moved_px, axis=2) + 4 * rng.standard_normal(first.shape).astype(np.float32)
    later[4:9, 95:105, 120:130] += 300
    assert quality.motion_mm(first, [later], (3.0, 1.0, 1.0)) == pytest.approx(moved_px, abs=2.1)


def page(ink: int, paper: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """A report page as ultrasound systems save it."""
    picture = Image.new("L", (640, 480), paper)
    pen = ImageDraw.Draw(picture)
    for row in range(22):
        pen.text((20, 10 + 21 * row), "LEFT BREAST  A 12.3 mm  B 8.1 mm  DEPTH 20 mm  BIRADS 2", fill=ink)
    return np.asarray(picture, np.uint8)


@pytest.mark.parametrize(("ink", "paper"), [(255, 0), (0, 255), (230, 20)])
def test_a_report_page_is_no_ultrasound_image(ink: int, paper: int) -> None:
    """Text on an even ground is refused, whatever its colours; speckle with a caption is not."""
    of = facts(modality="US", sop_class_uid=US_CLASS, view="", rows=480, columns=640, bits_stored=8)
    with pytest.raises(Refused, match="SCREEN_COPY"):
        ultrasound.prepare(page(ink, paper), of, 64)
    speckle = np.random.default_rng(1).integers(20, 200, (480, 640)).astype(np.uint8)
    speckle[:30] = page(255, 0)[:30]
    assert ultrasound.prepare(speckle, of, 64).images
