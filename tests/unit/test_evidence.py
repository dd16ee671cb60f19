"""What the evidence is computed with: statistics, heat-map truth, cohorts and committed scores keep their promises."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from casework.engine.bundle import open_package
from casework.engine.onnxrt import OnnxRunner
from casework.engine.runner import SideInputs
from casework.modelspec import SLOTS
from models.cman import evaluate, manual
from models.cman.data import Sides, open_sides
from models.cman.evidence import baselines, cohort, heat, measure, report, stats
from models.cman.evidence.shipped import Reader, Reading
from models.cman.phantom import dataset

MODELS = Path(__file__).resolve().parents[2] / "models"


def readings(
    seed: int, patients: int, sides: int = 2
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.int64]]:
    """Labels, two scores (2, N) and whose side it is; sides of a patient and the two scores go together."""
    print(f"seed {seed}")
    rng = np.random.default_rng(seed)
    case = np.repeat(np.arange(patients), sides)
    shared = rng.normal(size=patients)[case]
    label = (rng.random(len(case)) < 1 / (1 + np.exp(-shared))).astype(np.int64)
    noise = rng.normal(size=len(case))
    return label, np.stack([shared + noise, shared + 0.7 * noise + rng.normal(size=len(case))]), case


def test_delong_is_the_textbooks_with_one_side_a_patient() -> None:
    """AUC is scikit-learn's, and the covariance is that of DeLong's placement values, computed pair by pair."""
    label, scores, case = readings(1, 90, sides=1)
    scores = np.round(scores, 1)  # ties
    auc, covariance = stats.delong(label, scores, case)
    np.testing.assert_allclose(auc, [roc_auc_score(label, s) for s in scores])
    psi = [np.sign(s[label == 1][:, None] - s[label == 0]) / 2 + 0.5 for s in scores]
    ten = np.cov([p.mean(1) for p in psi]) / (label == 1).sum()
    one = np.cov([p.mean(0) for p in psi]) / (label == 0).sum()
    # With every side a patient of its own, the cross term only removes means that are zero already.
    np.testing.assert_allclose(covariance, ten + one, rtol=0.05)


def test_two_sides_of_a_patient_are_not_counted_as_independent() -> None:
    """A cohort in which each side stands twice is no larger: the interval stays what it was, as the bootstrap's does."""
    label, scores, case = readings(2, 150, sides=1)
    once = stats.auc(label, scores[0], case)
    twice = stats.auc(np.repeat(label, 2), np.repeat(scores[0], 2), np.repeat(case, 2))
    assert twice["delong_high"] - twice["delong_low"] == pytest.approx(
        once["delong_high"] - once["delong_low"], rel=0.02
    )


def test_delong_and_the_bootstrap_over_patients_agree() -> None:
    """Two ways to the interval of a difference, no code in common, within a fifth of its width."""
    label, scores, case = readings(3, 250)
    a = stats.paired(label, scores[0], scores[1], case)
    b = evaluate.auc_difference(label, scores[0], scores[1], case, seed=1, rounds=400)
    assert a["difference"] == pytest.approx(b["difference"])
    width = a["high"] - a["low"]
    assert abs(a["low"] - b["low"]) < 0.2 * width
    assert abs(a["high"] - b["high"]) < 0.2 * width


def test_equal_readers_do_not_differ_and_unequal_ones_do() -> None:
    """The p-value is 1 for a score against itself, and small for a good score against noise."""
    label, scores, case = readings(4, 200)
    assert stats.paired(label, scores[0], scores[0], case)["p"] == 1.0
    noise = np.random.default_rng(404).normal(size=len(label))
    assert stats.paired(label, scores[0], noise, case)["p"] < 1e-4


def test_an_interval_without_enough_patients_is_refused() -> None:
    """One patient with metastasis gives no interval, and no number that looks like one."""
    case = np.arange(6)
    with pytest.raises(ValueError, match="two patients"):
        stats.delong(np.array([1, 0, 0, 0, 0, 0]), np.arange(6.0)[None], case)
    with pytest.raises(ValueError, match="with and"):
        stats.delong(np.zeros(6, np.int64), np.arange(6.0)[None], case)


def test_net_benefit_of_treating_all_is_known() -> None:
    """It is prevalence - (1 - prevalence) * threshold / (1 - threshold); a perfect reader gains the prevalence."""
    label = np.array([1, 1, 0, 0, 0, 0, 0, 0, 0, 0])
    at = np.array([0.1, 0.2, 0.5])
    np.testing.assert_allclose(stats.net_benefit(np.ones(10), label, at), 0.2 - 0.8 * at / (1 - at))
    np.testing.assert_allclose(stats.net_benefit(label.astype(float), label, at), 0.2)


def test_subgroups_of_a_column_hold_every_side_once() -> None:
    """No side is lost between two subgroups and none is counted twice."""
    rng = np.random.default_rng(5)
    table = {"density": rng.random(50), "age": rng.integers(25, 88, 50), "largest_mm": rng.uniform(5, 9, 50)}
    table |= {"mg_vendor": rng.choice(["linear", "lut"], 50), "mr_phases": rng.integers(4, 7, 50)}
    table |= {"field_t": rng.choice([1.5, 3.0], 50)}
    counts: dict[str, NDArray[np.int64]] = {}
    for column, _, members in stats.subgroups(table):
        counts[column] = counts.get(column, np.zeros(50, np.int64)) + members
    assert set(counts) == set(table)
    assert all((c == 1).all() for c in counts.values())


def picture(row: int, col: int, value: float) -> Reading:
    """A reading of one side whose maps have one spot each."""
    maps = {m: np.zeros((1, len(s), 56, 56), np.float32) for m, s in SLOTS.items()}
    for heats in maps.values():
        heats[..., row, col] = value
    return Reading(np.zeros(1, np.float32), {}, maps)


@pytest.mark.parametrize(
    ("place", "value", "hottest", "strongest"), [(20, 1.0, 1, 1), (50, 1.0, 0, 0), (20, -1.0, 0, 1)]
)
def test_pointing_tells_on_target_from_beside(place: int, value: float, hottest: int, strongest: int) -> None:
    """A spot on the lesion is a hit, one elsewhere is none; a cold spot on it counts for strength, not for heat."""
    bits = {m: np.zeros((1, len(s), 56, 56), np.uint8) for m, s in SLOTS.items()}
    for one in bits.values():
        one[..., 18:24, 18:24] = heat.LESION
    tally = heat.Tally()
    tally.add(picture(place, place, value), bits, {m: np.ones((1, len(s)), np.uint8) for m, s in SLOTS.items()})
    found = tally.result()["MR"]
    assert (found["images"], found["hottest_on_target"], found["strongest_on_target"]) == (4, hottest, strongest)
    assert found["by_chance"] == pytest.approx(14 * 14 / 56**2)
    assert found["mass_on_target"] == (place == 20)


def test_painting_over_removes_the_lesion_and_nothing_else() -> None:
    """The marked place takes the tone of the tissue around it; what is far from it keeps every bit."""
    image = np.full((1, 1, 224, 224), 100, np.uint8)
    image[..., 80:96, 80:96] = 250
    bits = np.zeros((1, 56, 56), np.uint8)
    bits[:, 20:24, 20:24] = heat.LESION
    painted = heat.painted_over(image, bits, heat.LESION)
    assert (painted[..., 80:96, 80:96] == 100).all()
    assert np.array_equal(painted[..., 120:, :], image[..., 120:, :])
    assert np.array_equal(heat.painted_over(image, bits, heat.NODE), image)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cohort of one patient at the size that cman-tiny takes."""
    return tmp_path_factory.mktemp("cohorts")


def test_cached_tokens_give_what_the_service_gives(drawn: Path) -> None:
    """Drawn, encoded once and read from the cache: the logits are the whole runner's, to half precision."""
    package = open_package(MODELS / "cman-tiny")
    size = package.spec.input_size
    one = cohort.Cohort("one", 93, 1)
    dataset.write(drawn / "one", cases=1, seed=93, size=size, hospital="A", workers=1)
    folder = cohort.drawn(one, drawn, size, workers=1)
    tokens, sides = cohort.encoded(package, folder, threads=1), open_sides(folder)
    logits = Reader(package, 1).logits(tokens, sides.masks)
    images = {m: sides.images[m].astype(np.float32) / np.float32(255.0) for m in SLOTS}
    masks = {m: sides.masks[m].astype(np.float32) for m in SLOTS}
    whole = OnnxRunner(package, 1).run(SideInputs(images, masks))
    np.testing.assert_allclose(logits, whole.logit, atol=5e-3)
    assert {p.name.split("_")[1] for p in folder.glob("tokens_*.npy")} == {"mg", "mr", "us"}
    with pytest.raises(ValueError, match="another cohort"):
        cohort.drawn(cohort.Cohort("one", 94, 1), drawn, size, workers=1)


def scored(folder: Path, name: str, seed: int = 1, *, whole: bool = False) -> None:
    """Five finished folds of a head, as folds.py leaves them, or one that was trained longer on all patients."""
    rng, steps = np.random.default_rng(seed), 1200 if whole else 300
    for n in (5,) if whole else range(5):
        held = np.arange(n, 40, 5)[: 0 if whole else None]
        about = {"head": name, "fold": n, "cpu_s": 1, "wall_s": 1, "parameters": 7}
        about["plan"] = {"seed": seed, "steps": steps}
        others = {c: rng.normal(size=30).astype(np.float32) for c in baselines.COHORTS[1:]}
        arrays = {"internal": held.astype(np.float32), "held": held, **others}
        np.savez_compressed(folder / f"{name}-{n}.npz", about=np.array(json.dumps(about)), **arrays)  # type: ignore[arg-type]


def test_committed_scores_belong_to_their_sides(tmp_path: Path) -> None:
    """Folds come together side by side, and scores of another cohort are refused instead of compared."""
    runs = tmp_path / "runs"
    runs.mkdir()
    scored(runs, "concat")
    label = np.arange(30) % 2
    digests = {"test": baselines.digest(np.arange(30), label)}
    arrays, about = baselines.gather(runs, digests, {"validation": label, "internal": np.arange(40) % 2})
    np.savez_compressed(tmp_path / "baselines.npz", **arrays)  # type: ignore[arg-type]
    (tmp_path / "baselines.json").write_text(json.dumps(about))
    head = baselines.load(tmp_path, digests)["concat"]
    assert np.array_equal(head.out_of_fold, np.arange(40))
    assert head.folds["test"].shape == (5, 30)
    assert len(head.held_out_auc) == 5
    assert 0 < head.chosen["negative_below"] <= head.chosen["positive_at"] < 1
    with pytest.raises(ValueError, match="another test cohort"):
        baselines.load(tmp_path, {"test": baselines.digest(np.arange(30), 1 - label)})


def test_heads_that_were_trained_longer_are_named_and_compared_with_each_other(tmp_path: Path) -> None:
    """A second folder's heads carry their steps, and each meets the CMAN of its own schedule; held out or not is said."""
    label, case = np.arange(30) % 2, np.arange(30) // 2
    labels = {"validation": label, "internal": np.arange(40) % 2}
    arrays: dict[str, Any] = {}
    facts: dict[str, Any] = {}
    digests = {c: baselines.digest(case, label) for c in ("test", "external")}
    for n in range(2):
        runs = tmp_path / str(n)
        runs.mkdir()
        for seed, head in enumerate(("cman", "early-maps")):
            scored(runs, head, seed=10 * n + seed, whole=bool(n))
        more, about = baselines.gather(runs, digests, labels, further=bool(n))
        arrays |= more
        facts |= about["heads"]
    np.savez_compressed(tmp_path / "baselines.npz", **arrays)
    (tmp_path / "baselines.json").write_text(json.dumps({"cohorts": digests, "heads": facts}))
    found = baselines.load(tmp_path, digests)
    assert {n: (h.training["steps"], len(h.held_out_auc)) for n, h in found.items()} == {
        "cman": (300, 5),
        "early-maps": (300, 5),
        "cman-1200": (1200, 0),
        "early-maps-1200": (1200, 0),
    }
    sides = Sides({}, {}, {}, label, (label * 0.5 + 0.2).astype(np.float64), case, "x")
    score = np.arange(30, dtype=float)
    told = measure.compared(found, dict.fromkeys(digests, sides), dict.fromkeys(digests, score), 1)
    rows = told["test"]
    for ending in ("", "-1200"):
        a, b = (found[f"{h}{ending}"].mean("test") for h in ("cman", "early-maps"))
        assert rows[f"early-maps{ending}"]["cman_minus_this"] == stats.paired(label, a, b, case)
        assert "cman_minus_this" not in rows[f"cman{ending}"]
    page = "\n".join(report._baselines({"baselines": told}))
    assert "| early fusion: maps of a plane stacked as channels, 1200 steps |" in page
    assert "trained on all patients of the internal cohort" in page
    assert "one schedule of 300 steps" in page


def test_chance_in_a_few_validation_patients_is_told_by_the_folds(tmp_path: Path) -> None:
    """Heads that are twice as sure as they may be on unseen patients, and rightly sure on validation, ask for a factor of two."""
    rng = np.random.default_rng(3)
    logit = {"internal": rng.normal(size=6000) * 2, "validation": rng.normal(size=6000) * 2}
    sides, scores = {}, {}
    for name, sure in (("internal", 2.0), ("validation", 1.0)):
        label = (rng.random(6000) < 1 / (1 + np.exp(-logit[name]))).astype(np.int64)
        sides[name] = Sides({}, {}, {}, label, logit[name], np.arange(6000), "x")
        scores[name] = (logit[name] * sure).astype(np.float32)
    scores["internal"][::5] = np.nan  # a fold that is not there
    scores["internal"] = scores["internal"][:-1]  # gather() ends with the last side that it knows
    cohorts = {n: baselines.digest(s.case, s.label) for n, s in sides.items()}
    (tmp_path / "baselines.json").write_text(json.dumps({"cohorts": cohorts, "heads": {}}))
    arrays: dict[str, Any] = {
        "cman/internal": scores["internal"],
        "cman/validation": np.stack([scores["validation"]] * 4),
    }
    np.savez_compressed(tmp_path / "baselines.npz", **arrays)
    found = baselines.correction(tmp_path, sides["internal"], sides["validation"])
    assert found.factor == pytest.approx(2.0, abs=0.15)
    assert found.sides == 4799
    with pytest.raises(ValueError, match="another internal cohort"):
        baselines.correction(tmp_path, sides["validation"], sides["validation"])


def test_folds_of_different_plans_are_not_put_together(tmp_path: Path) -> None:
    """A head whose folds were trained differently is no head."""
    scored(tmp_path, "mg")
    about = {"head": "mg", "fold": 4, "cpu_s": 1, "wall_s": 1, "parameters": 7}
    about["plan"] = {"seed": 2, "steps": 300}
    with np.load(tmp_path / "mg-4.npz") as old:
        arrays = {k: old[k] for k in old.files if k != "about"}
    np.savez_compressed(tmp_path / "mg-4.npz", about=np.array(json.dumps(about)), **arrays)
    with pytest.raises(ValueError, match="different plans"):
        baselines.gather(tmp_path, {}, {"validation": np.arange(30) % 2, "internal": np.arange(40) % 2})


@pytest.mark.parametrize("name", ["cman", "cman-lite"])
def test_the_manual_is_what_the_evaluation_says(name: str) -> None:
    """Both languages, as committed, are written from the package's own numbers; every number of one is in the other."""
    made = manual.manuals(MODELS / name)
    for language, text in made.items():
        assert (MODELS / name / f"manual.{language}.md").read_text("utf-8") == text
    numbers = [sorted(re.findall(r"\d\.\d{3}", text)) for text in made.values()]
    assert numbers[0] == numbers[1]
    assert "A negative result does not exclude a metastasis" in made["en"]
    assert "阴性结果不能排除转移" in made["zh"]


def test_the_evidence_page_is_its_json_and_about_the_shipped_weights() -> None:
    """docs/evidence/README.md is written from evidence.json, whole, and both are about the package as committed."""
    folder = MODELS.parent / "docs" / "evidence"
    found = json.loads((folder / "evidence.json").read_text("utf-8"))
    assert (folder / "README.md").read_text("utf-8") == report.page(found)
    assert found["manifest_sha256"] == open_package(MODELS / "cman").sha256
    assert found["share"] == 1.0
    named = set(re.findall(r"\]\(([^)]+)\)", report.page(found)))
    assert named == {p.name for p in folder.iterdir()} - {
        "README.md",
        "baselines.npz",
        "baselines.json",
        "studies.json",
    }


def test_the_manuals_outcomes_add_up() -> None:
    """Of 100 sides of either kind, positive, indeterminate and negative are 100; predictive values follow Bayes."""
    points = {"sensitivity_at_positive": 0.8, "specificity_at_positive": 0.9}
    points |= {"sensitivity_at_negative": 0.95, "specificity_at_negative": 0.5}
    found = manual._points(points, 0.2)
    assert sum(found[f"{o}_true"] for o in ("pos", "mid", "neg")) == pytest.approx(100)
    assert sum(found[f"{o}_false"] for o in ("pos", "mid", "neg")) == pytest.approx(100)
    assert found["ppv"] == pytest.approx(0.16 / 0.24)
    assert found["npv_miss"] == pytest.approx(0.01 / 0.41)


def test_what_is_committed_of_the_packages_stays_small() -> None:
    """All released weights together under 160 MB, no file over 50 MB; the student's encoders under a third of the teacher's."""
    released = ("cman", "cman-lite", "cman-tiny", "cman-tiny-fp16")
    files = [p for n in released for p in (MODELS / n).rglob("*") if p.is_file() and "runs" not in p.parts]
    assert max(p.stat().st_size for p in files) < 50e6
    assert sum(p.stat().st_size for p in files) < 160e6
    for m in ("mg", "mr", "us"):
        lite, whole = ((MODELS / n / f"encoder-{m}.onnx").stat().st_size for n in ("cman-lite", "cman"))
        assert lite < 0.33 * whole
