"""The page of the evidence is written from measurements of the shipped graphs, and says what it does not have."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from casework.engine.bundle import ModelPackage, open_package
from casework.modelspec import SLOTS
from models.cman.data import Sides
from models.cman.evidence import measure, report
from models.cman.evidence.baselines import Baseline
from models.cman.evidence.shipped import Reader, by_subset

MODELS = Path(__file__).resolve().parents[2] / "models"
SIDES = 40


@pytest.fixture(scope="module")
def package() -> ModelPackage:
    return open_package(MODELS / "cman")


@pytest.fixture(scope="module")
def material() -> tuple[dict[str, Any], Sides, dict[str, Any], dict[str, Any]]:
    """Tokens of nothing in particular, sides without images, truth bits and a table."""
    rng = np.random.default_rng(11)
    tokens = {m: rng.normal(size=(SIDES, len(s), 128, 14, 14)).astype(np.float16) for m, s in SLOTS.items()}
    masks = {m: np.ones((SIDES, len(s)), np.uint8) for m, s in SLOTS.items()}
    risk = rng.random(SIDES)
    sides = Sides({}, masks, {}, (risk > 0.5).astype(np.int64), risk, np.arange(SIDES) // 2, "x")
    bits = {m: (rng.random((SIDES, len(s), 56, 56)) < 0.05).astype(np.uint8) for m, s in SLOTS.items()}
    table = {c: np.full(SIDES, 50.0) for c in ("density", "age", "largest_mm", "mr_phases", "field_t")}
    return tokens, sides, bits, table | {"mg_vendor": np.full(SIDES, "linear")}


@pytest.fixture(scope="module")
def evidence(package: ModelPackage, material: Any) -> dict[str, Any]:
    """Everything that `make evidence` measures of one cohort, with few rounds, and two made-up heads."""
    tokens, sides, bits, table = material
    reader = Reader(package, 1)
    logits = by_subset(reader, tokens, sides)
    found = measure.subsets(logits, sides, package, 1, rounds=20)
    found |= {"subgroups": measure.subgroups(logits["MG+MR+US"], sides, table)}
    found |= {"by_patient": measure.by_patient(logits["MG+MR+US"], sides)}
    found |= {"heat": measure.heat_truth(reader, tokens, sides, bits)}
    rng = np.random.default_rng(12)
    own = np.log(sides.risk / (1 - sides.risk))
    chosen = {"temperature": 1.0, "positive_at": 0.6, "negative_below": 0.2}
    heads = {}
    for name, noise in (("concat", 3.0), ("cman", 0.3)):
        folds = (own + noise * rng.normal(size=(5, SIDES))).astype(np.float32)
        heads[name] = Baseline({"test": folds, "external": folds}, folds[0], chosen)
    full = {"test": logits["MG+MR+US"], "external": logits["MG+MR+US"]}
    sanity = {"randomised": measure.randomised(reader, tokens, sides, 1)}
    sanity["painted_over"] = {"sides": 3} | {
        key: {"mean_drop": 1.0, "share_lower": 0.5} for key in ("lesions and nodes painted over", "elsewhere")
    }
    cohorts = {key: {"patients": 20, "seed": 1, "hospital": "A"} for key in ("test", "external")}
    student = {"package": "cman-lite", "version": "9", "manifest_sha256": "1", "precision": "int8"}
    told = measure.beside(package, reader, tokens, sides, bits, full=full["test"])
    return {
        "student": student | {"test": told, "external": told},
        "package": "cman",
        "version": "9",
        "manifest_sha256": "0",
        "share": 1.0,
        "cohorts": cohorts,
        "test": found | {"sanity": sanity},
        "external": found,
        "seconds": {"all": 1.0},
        "machine": {"cores": 2},
        "baselines": measure.compared(heads, {"test": sides, "external": sides}, full, 1),
    }


def test_the_page_holds_every_subset_and_every_head(evidence: dict[str, Any]) -> None:
    """Seven subsets a cohort, each head with its p, and the warning before all of them."""
    page = report.page(evidence)
    assert page.index("say nothing about any patient") < page.index("| images of |")
    for subset in evidence["test"]["subsets"]:
        assert page.count(f"\n| {subset} | 0.") == 2
    assert "| concatenation of pooled features |" in page
    assert not any(bad in page for bad in ("None", "{", "}"))


def test_a_student_is_measured_on_the_same_sides(evidence: dict[str, Any]) -> None:
    """Its own logits against the shipped ones, side by side; the shipped package itself does not differ from itself."""
    row = evidence["student"]["test"]
    assert row["auc"] == evidence["test"]["subsets"]["MG+MR+US"]["auc"]
    assert row["this_minus_shipped"] == {"difference": 0.0, "low": 0.0, "high": 0.0, "p": 1.0}
    assert row["heat"] == evidence["test"]["heat"]
    page = report.page(evidence)
    assert "## The student: cman-lite 9, int8" in page
    assert "## The student" not in report.page({k: v for k, v in evidence.items() if k != "student"})


def test_a_better_head_is_told_from_a_worse_one(evidence: dict[str, Any]) -> None:
    """The paired difference has the sign of the AUCs' and the folds' t-test is beside DeLong's p."""
    row = evidence["baselines"]["test"]["concat"]
    assert row["cman_minus_this"]["difference"] > 0
    assert row["cman_minus_this"]["p"] < 0.05
    assert row["t_test_over_folds"]["folds"] == 5
    assert "cman_minus_this" not in evidence["baselines"]["test"]["cman"]


def test_a_patient_is_as_suspicious_as_the_worse_side(evidence: dict[str, Any], material: Any) -> None:
    """One score a patient, the higher one; one label, positive when either side is."""
    sides = material[1]
    found = measure.by_patient(sides.risk, sides)
    assert found["patients"] == SIDES // 2
    assert found["prevalence"] == sides.label.reshape(-1, 2).max(1).mean()
    assert found["auc"] == 1.0  # the label is drawn from the risk without chance here
    assert "Per patient" in report.page(evidence)


def test_shuffled_weights_do_not_draw_the_same_map(evidence: dict[str, Any]) -> None:
    """On these tokens of nothing, too, the map follows the weights."""
    assert abs(evidence["test"]["sanity"]["randomised"]["correlation_mean"]) < 0.5


def test_a_page_without_baselines_or_of_a_part_says_so(evidence: dict[str, Any]) -> None:
    """What was not measured is named, and a trial can't be taken for the evidence."""
    page = report.page(evidence | {"baselines": {}, "share": 0.1})
    assert "None is committed yet" in page
    assert "A trial on 10% of every cohort: not the evidence" in page
