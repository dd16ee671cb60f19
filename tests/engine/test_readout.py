"""From numbers to words: thresholds, and never a silent negative."""

from dataclasses import replace

import numpy as np
import pytest

from casework.engine.bundle import ModelPackage
from casework.engine.onnxrt import OnnxRunner
from casework.engine.readout import cut_for, outcome_of, read, sufficient
from casework.engine.runner import SideInputs, SideOutputs
from casework.modelspec import SLOTS, Cut, ModelSpec
from casework.result import Outcome, Side


@pytest.fixture
def spec(package: ModelPackage) -> ModelSpec:
    return replace(package.spec, positive_at=0.6, negative_below=0.4, requires=(("US",), ("MG", "MR")))


def _outputs(prob: list[float], present: tuple[tuple[str, ...], ...]) -> SideOutputs:
    p = np.array(prob, np.float32)
    logit = np.log(p / (1 - p))
    share = dict.fromkeys(SLOTS, logit / 3)
    return SideOutputs(logit, p, share, {m: np.zeros((len(p), 1, 2, 2), np.float32) for m in SLOTS}, present)


@pytest.mark.parametrize(
    ("probability", "outcome"),
    [
        (0.0, Outcome.NEGATIVE),
        (0.399, Outcome.NEGATIVE),
        (0.39996, Outcome.INDETERMINATE),  # shown as 40.0 %, beside "negative below 40.0 %"
        (0.4, Outcome.INDETERMINATE),
        (0.599, Outcome.INDETERMINATE),
        (0.59996, Outcome.POSITIVE),
        (0.6, Outcome.POSITIVE),
        (1.0, Outcome.POSITIVE),
    ],
)
def test_thresholds_belong_to_the_upper_outcome(spec: ModelSpec, probability: float, outcome: Outcome) -> None:
    """At positive_at a side is positive; at negative_below it is no longer negative."""
    assert outcome_of(probability, cut_for(SLOTS, spec)) is outcome


@pytest.mark.parametrize(
    ("modalities", "enough"),
    [
        ((), False),
        (("MG",), False),
        (("MR",), False),
        (("US",), True),
        (("MG", "MR"), True),
        (("MG", "MR", "US"), True),
    ],
)
def test_requires_is_any_of_its_sets(spec: ModelSpec, modalities: tuple[str, ...], enough: bool) -> None:
    """A side may be read when one of the required sets of modalities is there as a whole."""
    assert sufficient(modalities, spec) is enough


def test_a_side_without_enough_images_is_insufficient_never_negative(spec: ModelSpec) -> None:
    """Too little input gives INSUFFICIENT without a probability, also when the number would have been low."""
    low, other = read(_outputs([0.01, 0.99], (("MG",), ())), spec)
    for side in (low, other):
        assert side.outcome is Outcome.INSUFFICIENT
        assert side.probability is None
        assert not side.evidence


def test_every_side_gets_its_own_answer_in_order(spec: ModelSpec) -> None:
    """Right comes first, left second, each with its probability and the evidence of the modalities that were there."""
    right, left = read(_outputs([0.9, 0.1], (("US",), ("MG", "MR"))), spec)
    assert (right.side, right.outcome, right.modalities) == (Side.RIGHT, Outcome.POSITIVE, ("US",))
    assert (left.side, left.outcome) == (Side.LEFT, Outcome.NEGATIVE)
    assert set(left.evidence) == {"MG", "MR"}


def test_a_batch_of_another_size_than_the_sides_is_an_error(spec: ModelSpec) -> None:
    """A result can't be given to the wrong side by a batch of another length."""
    with pytest.raises(ValueError, match="zip"):
        read(_outputs([0.9], (("US",),)), spec)


def test_temperature_divides_the_logit(package: ModelPackage, full: SideInputs) -> None:
    """The probability is the sigmoid of the logit divided by the package's temperature; the logit stays."""
    plain = OnnxRunner(package, threads=1).run(full)
    cooled = OnnxRunner(replace(package, spec=replace(package.spec, temperature=2.0)), threads=1).run(full)
    np.testing.assert_array_equal(plain.logit, cooled.logit)
    np.testing.assert_allclose(cooled.prob, 1 / (1 + np.exp(-plain.logit / 2.0)), rtol=1e-5)
    assert np.abs(plain.prob - cooled.prob).max() > 0.01


ONE = (Side.RIGHT,)


def doubtful(without: dict[str, float], distance: dict[str, float], prob: float = 0.9) -> SideOutputs:
    """One side with all modalities, its logits without each of them, and its distances."""
    base = _outputs([prob], (tuple(SLOTS),))
    as_array = {m: np.array([v], np.float32) for m, v in without.items()}
    return replace(base, without=as_array, distance={m: np.array([v], np.float32) for m, v in distance.items()})


def test_fewer_modalities_need_a_clearer_number(spec: ModelSpec) -> None:
    """Without own thresholds both move apart with each missing modality; a stated pair for the subset is used as it is."""
    full, two, single = (cut_for(m, spec) for m in (SLOTS, ("MG", "US"), ("US",)))
    assert (full.positive_at, full.negative_below) == pytest.approx((0.6, 0.4))
    assert full.positive_at < two.positive_at < single.positive_at < 1
    assert full.negative_below > two.negative_below > single.negative_below > 0
    stated = replace(spec, subsets={("US",): Cut(0.7, 0.1)})
    assert cut_for(("US",), stated) == Cut(0.7, 0.1)
    (read_it,) = read(_outputs([0.65], (("US",),)), stated, ONE)
    assert (read_it.outcome, read_it.cut) == (Outcome.INDETERMINATE, (0.7, 0.1))


def test_an_answer_that_hangs_on_one_modality_decides_nothing(spec: ModelSpec) -> None:
    """Leaving one out moves the probability further than the manifest allows: indeterminate, with the reason."""
    rules = replace(spec, spread_limit=0.4, temperature=1.0)
    (steady,) = read(doubtful({"MG": 2.0, "MR": 1.8, "US": 1.2}, {}), rules, ONE)
    assert (steady.outcome, steady.held_back) == (Outcome.POSITIVE, ())
    assert steady.without["US"] == pytest.approx(1 / (1 + np.exp(-1.2)), abs=1e-6)
    (hangs,) = read(doubtful({"MG": 2.0, "MR": 1.8, "US": -3.0}, {}), rules, ONE)
    assert (hangs.outcome, hangs.held_back) == (Outcome.INDETERMINATE, ("ANSWER_UNSTABLE",))
    assert hangs.spread == pytest.approx(0.9 - 1 / (1 + np.exp(3.0)), abs=1e-3)
    (unlimited,) = read(doubtful({"MG": 2.0, "MR": 1.8, "US": -3.0}, {}), replace(rules, spread_limit=None), ONE)
    assert unlimited.outcome is Outcome.POSITIVE


@pytest.mark.parametrize("prob", [0.02, 0.9])
def test_images_unlike_the_training_decide_nothing(spec: ModelSpec, prob: float) -> None:
    """Far from the training there is neither a positive nor a negative answer; near it there is."""
    (near,) = read(doubtful({}, {"MG": 0.9, "US": 0.5}, prob), spec, ONE)
    (far,) = read(doubtful({}, {"MG": 0.9, "US": 1.01}, prob), spec, ONE)
    assert near.outcome is (Outcome.POSITIVE if prob > 0.5 else Outcome.NEGATIVE)
    assert (far.outcome, far.held_back) == (Outcome.INDETERMINATE, ("INPUT_UNUSUAL",))
    assert far.distance == {"MG": pytest.approx(0.9), "US": pytest.approx(1.01)}
