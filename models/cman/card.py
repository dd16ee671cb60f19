"""MODEL_CARD.md from the evaluation, so that words and numbers can't drift apart. Does no I/O."""

from collections.abc import Mapping
from typing import Any

POINTING_GOAL = 0.8
_TEMPLATE = """# {name} {version}

**{intended_use}**

## What it is

CMAN, a cross-modal attention network. Per breast it takes up to two mammographic views (CC, MLO), four projections of a
dynamic MRI (axial, sagittal, axial upper and lower half; pre-contrast, early and late difference as channels) and three
ultrasound frames, each {size} x {size} pixels, and gives one probability that the axilla of that side holds a lymph-node
metastasis, a share of the logit per modality, and a heat-map per image. Three encoders (one a modality, {encoders},
{precision} convolutions) turn each image into 14 x 14 tokens; the tokens of each modality ask those of the others (alignment prior
between views of one plane); gated attention pools them per modality. Contributions add up to the logit exactly.
Any subset of images runs; absent ones change nothing.

**What the heat-map means.** It shows where evidence was collected, not where it came from: after cross-attention a token
also carries what it learned from other images. Places only speak for; what speaks against is that little was found, and
lies evenly over a modality's images. It is no segmentation and no proof of a cause.

## What it was trained on

{training}

The phantoms are drawings with known truth (`models/cman/phantom`). The label is drawn from a risk that rises most when
one lesion is spiculated (mammography) and washes out (MRI), and with the cortex of the axillary node (ultrasound). Two
things make little processor time go far and would not exist for real patients: the encoders were trained on dense truth
(what lies at each token), and the fusion on the phantom's risk instead of the drawn label. The fusion has an auxiliary
task: what each lesion is like in the other modalities, and learns from a tenth of the tokens, drawn anew at every step. What
the dense supervision reads from a token (lesion, spiculation, washout, node, cortex) is a word of that token.
{taught}
Schedule: {schedule}. AdamW, cross-entropy against the risk (focal loss with gamma 2 is there for drawn labels), modality and slot dropout, bf16 mixed precision, seed
{seed}. Trained on two shared processor cores: {minutes:.0f} minutes by the clock for
all stages together, of which some ran side by side.

Encoders on validation, area under the ROC curve over tokens: {dense}.

## Evaluation

{what} Intervals: 95 %, bootstrap over patients.

{tables}

{beside}{pointing}

Calibration, on {fitted}: a shift per modality (inside the head) over all subsets, temperature {temperature:.3f} on full input.
Thresholds, chosen on the same with full input: positive at {positive_at:.3f} (specificity 0.90), negative below
{negative_below:.3f} (sensitivity 0.95), between them indeterminate.

## Precision

int8 (static, convolutions of the encoders only) against fp32 encoders on {int8[sides]} test sides: difference of the
probability {int8[mean_abs_dp]:.4f} on average, {int8[p99_abs_dp]:.4f} at the 99th percentile, {int8[max_abs_dp]:.4f} at
most; {int8[flips_at_positive]} sides change at the positive threshold; heat-maps correlate {int8[heat_correlation_mean]:.4f}
on average, {int8[heat_correlation_min]:.4f} at least; AUC {int8[auc_minus_fp32][difference]:+.4f} ({int8[auc_minus_fp32][low]:+.4f} to
{int8[auc_minus_fp32][high]:+.4f}). All numbers above are those of the int8 encoders. fp32 graphs against
torch: logit within {parity[max_abs_logit]:.1e}, heat within {parity[max_abs_heat]:.1e}.

## Limits

- Never evaluated on a real image. A real mammogram, MRI or ultrasound is outside of everything that it has seen; whatever
  it says there is meaningless.
- It holds by construction of the label that several modalities together are better. This is no clinical finding.
{weak}{behind}- Subsets are weaker than full input, see the table; the thresholds were chosen for full input. A probability from one modality stays near the prevalence.
- Prevalence of the phantoms: {prevalence:.2f}. Another prevalence needs another calibration.
- Phantoms have no implants, no surgery, no clips, no bilateral nodes, no artefacts beyond noise and blur.

Licence: Apache-2.0. Reproduce with the command chain in models/cman/README.md.
"""


def _interval(numbers: Mapping[str, Any]) -> str:
    return f"{numbers['auc']:.3f} ({numbers['low']:.3f} to {numbers['high']:.3f})"


def _table(title: str, numbers: Mapping[str, Any]) -> str:
    rows = [
        f"### {title}",
        "",
        "| images of | AUC (95 %) | all three minus this | Brier | ECE | slope | sensitivity / specificity at positive |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, n in numbers["subsets"].items():
        gain = n.get("all_minus_this")
        words = f"{gain['difference']:+.3f} ({gain['low']:+.3f} to {gain['high']:+.3f})" if gain else ""
        rows.append(
            f"| {name} | {_interval(n)} | {words} | {n['brier']:.3f} | {n['ece']:.3f} | {n['calibration_slope']:.2f} "
            f"| {n['sensitivity_at_positive']:.2f} / {n['specificity_at_positive']:.2f} |"
        )
    rows += ["", f"Ceiling ({numbers['ceiling']['what']}): {_interval(numbers['ceiling'])}."]
    return "\n".join(rows)


def _tables(evaluation: Mapping[str, Any]) -> str:
    titles = {
        "test": "Held-out patients of the training hospital",
        "external": "Another hospital: other scanners, more noise and blur, larger misregistration",
        "val": "Validation (thresholds and temperature were fitted here, see Calibration)",
    }
    parts = []
    for name, title in titles.items():
        if name in evaluation:
            about = evaluation["sets"][name]
            parts.append(_table(f"{title} ({about['patients']} patients, {about['sides']} sides)", evaluation[name]))
    return "\n\n".join(parts)


def _encoders(network: Mapping[str, Any]) -> str:
    if network.get("reduction"):
        return "a smaller ResNet with channel and spatial attention, taught by the ResNet-50 of cman"
    return "ResNet-50"


def _dense(log: list[Mapping[str, Any]]) -> str:
    words = []
    for entry in log:
        for concept, value in entry.get("dense_auc", {}).items():
            words.append(f"{entry['event'].removeprefix('encoder ')} {concept} {value:.3f}")
    return ", ".join(words)


def _schedule(log: list[Mapping[str, Any]]) -> str:
    steps = [f"{e['event']} {e['steps']} steps" for e in log if "steps" in e]
    crops = "16 crops of 128 px" if _taught(log) else "32 crops of 96 px"
    return ", ".join(steps) + f" ({crops} or 32 sides a step)"


def _taught(log: list[Mapping[str, Any]]) -> bool:
    """Whether the encoders learned from another package's."""
    return any(e.get("taught") for e in log)


def _lesson(evaluation: Mapping[str, Any]) -> str:
    if not _taught(evaluation["training_log"]):
        return ""
    likeness = ", ".join(
        f"{e['event'].removeprefix('encoder ')} {e['likeness']:.2f}"
        for e in evaluation["training_log"]
        if "likeness" in e
    )
    return (
        "\nThe encoders were taught by cman's on the same images: its tokens, from half of the steps also where they are strong, from eight\n"
        "tenths also what they say of the concepts, and the dense truth throughout. Their tokens correlate with cman's on validation:\n"
        f"{likeness}.\n"
    )


def _beside(numbers: Mapping[str, Any]) -> str:
    """The table against the teacher; nothing for a package that has none."""
    if not numbers:
        return ""
    name = numbers["package"]
    rows = [
        f"### Beside {name}, on the same sides with all three modalities",
        "",
        f"| patients of | AUC | {name} | this minus {name} (DeLong) | p | slope | {name} |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for cohort, n in numbers["cohorts"].items():
        d = n["difference"]
        p = "< 0.0001" if d["p"] < 1e-4 else f"{d['p']:.4f}"
        rows.append(
            f"| {cohort} | {n['auc'][0]:.3f} | {n['auc'][1]:.3f} | {d['difference']:+.3f} ({d['low']:+.3f} to {d['high']:+.3f}) "
            f"| {p} | {n['slope'][0]:.2f} | {n['slope'][1]:.2f} |"
        )
    shares = ", ".join(f"{m} {n['share_on_target']:.2f}" for m, n in numbers["pointing_game"].items() if n["images"])
    size, of = numbers["parameters"]
    rows += [
        "",
        f"An encoder has {size / 1e6:.1f} million parameters against {of / 1e6:.1f}. {name}'s pointing game: {shares}.",
    ]
    return "\n".join(rows) + "\n\n"


def _behind(numbers: Mapping[str, Any]) -> str:
    """The gap to the teacher as a limit, where there is one."""
    if not numbers or numbers["cohorts"]["test"]["difference"]["high"] >= 0:
        return ""
    d = numbers["cohorts"]["test"]["difference"]
    return (
        f"- **Behind {numbers['package']}**: AUC {-d['difference']:.3f} lower on held-out patients ({-d['high']:.3f} to "
        f"{-d['low']:.3f}). It exists to save processor time; where there is time, use the other.\n"
    )


def _pointing(numbers: Mapping[str, Any]) -> str:
    parts = [f"{m} {n['share_on_target']:.2f} of {n['images']} images" for m, n in numbers.items() if n["images"]]
    return (
        "Pointing game (positive test sides; the largest contribution of an image lies within one token of a lesion or "
        "the node): " + ", ".join(parts) + "."
    )


def _weak(numbers: Mapping[str, Any]) -> str:
    found = [m for m, n in numbers.items() if n["images"] and n["share_on_target"] < POINTING_GOAL]
    return (
        f"- The hottest place of an image is often beside the lesion or node on {', '.join(found)}.\n" if found else ""
    )


def _fitted(evaluation: Mapping[str, Any]) -> str:
    """On whom it was calibrated."""
    found = evaluation["calibration"].get("correction", {"sides": 0})
    if "calibration" in evaluation["sets"]:
        return "validation and calibration patients"
    if not found["sides"]:
        return "validation patients"
    return (
        f"validation patients, the temperature times {found['factor']:.3f} (what CMAN's heads of docs/evidence's folds need on the {found['sides']} sides "
        "that they have not seen, over what they need on these few)"
    )


def write(manifest: Mapping[str, Any], evaluation: Mapping[str, Any]) -> str:
    """The card's text."""
    log = evaluation["training_log"]
    seconds = sum(e["seconds"] for e in log if "seconds" in e and "steps" in e)
    return _TEMPLATE.format(
        name=manifest["name"],
        version=manifest["version"],
        intended_use=manifest["intended_use"],
        training=manifest["training"],
        size=manifest["input_size"],
        encoders=_encoders(manifest["network"]),
        precision=manifest["precision"],
        schedule=_schedule(log),
        taught=_lesson(evaluation),
        seed=evaluation["seed"],
        minutes=seconds / 60,
        dense=_dense(log),
        what=evaluation["what"],
        tables=_tables(evaluation),
        beside=_beside(evaluation.get("beside", {})),
        behind=_behind(evaluation.get("beside", {})),
        pointing=_pointing(evaluation["pointing_game"]),
        weak=_weak(evaluation["pointing_game"]),
        fitted=_fitted(evaluation),
        temperature=manifest["temperature"],
        positive_at=manifest["thresholds"]["positive_at"],
        negative_below=manifest["thresholds"]["negative_below"],
        int8=evaluation["int8_against_fp32"],
        parity=manifest["parity"],
        prevalence=evaluation["test"]["subsets"]["MG+MR+US"]["prevalence"],
    )
