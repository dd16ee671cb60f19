"""docs/evidence/README.md from evidence.json, so that words and numbers can't drift apart; the picture of the worst errors."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from casework.engine.bundle import ModelPackage
from casework.modelspec import SLOTS
from models.cman.data import Sides
from models.cman.evidence import measure, plots, stats
from models.cman.evidence.baselines import same_schedule
from models.cman.evidence.cohort import Tokens
from models.cman.evidence.shipped import Reader

HEAD = """# Evidence

**Synthetic phantoms with known truth, nothing else. These numbers show what the network can use of what the phantoms put
into several modalities. They say nothing about any patient.** Made by `make evidence` ({seconds:.0f} s on {cores} cores{kept}); the same
numbers with more digits and all seeds are in [evidence.json](evidence.json).

Package {package} {version}, manifest sha256 `{manifest_sha256}`. Thresholds and temperature are the package's own, chosen on
other patients (its card says which) and never on these. Intervals are 95 %: DeLong's with the two sides of a patient taken
together (Obuchowski 1997), beside it a bootstrap over patients.
"""

KEPT = 60  # seconds: drawing and encoding 1,200 patients takes more than that on any machine
_SLOTS = tuple((m, n) for m, slots in SLOTS.items() for n in range(len(slots)))
TITLES = {"test": "Held-out patients of the training hospital", "external": "Another hospital"}
NAMES = {
    "mg": "MG alone",
    "mr": "MR alone",
    "us": "US alone",
    "concat": "concatenation of pooled features",
    "early-pixels": "early fusion: planes stacked as channels, a network of its own",
    "early-maps": "early fusion: maps of a plane stacked as channels",
    "cman-unaligned": "CMAN without alignment prior",
    "cman": "CMAN",
    "generative": "concatenation, minority class made up by a generator",
}


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> list[str]:
    names = list(head)
    lines = [f"| {' | '.join(names)} |", "| --- " * len(names) + "|"]
    return [*lines, *(f"| {' | '.join(r)} |" for r in rows), ""]


def _p(value: float) -> str:
    return "< 0.0001" if value < 1e-4 else f"{value:.4f}"


def _auc(row: Mapping[str, float]) -> str:
    return f"{row['auc']:.3f} ({row['delong_low']:.3f} to {row['delong_high']:.3f})"


def _minus(pair: Mapping[str, float] | None) -> tuple[str, str]:
    if not pair:
        return "", ""
    return f"{pair['difference']:+.3f} ({pair['low']:+.3f} to {pair['high']:+.3f})", _p(pair["p"])


def _subsets(found: Mapping[str, Any]) -> list[str]:
    rows = []
    for name, r in found["subsets"].items():
        boot = f"{r['bootstrap_low']:.3f} to {r['bootstrap_high']:.3f}"
        points = f"{r['sensitivity_at_positive']:.2f} / {r['specificity_at_positive']:.2f}"
        low = f"{r['sensitivity_at_negative']:.2f} / {r['specificity_at_negative']:.2f}"
        scale = (f"{r['brier']:.3f}", f"{r['calibration_slope']:.2f}", f"{r['ece']:.3f}")
        rows.append((name, _auc(r), boot, *_minus(r.get("all_minus_this")), *scale, points, low))
    head = ("images of", "AUC (DeLong)", "bootstrap", "all three minus this", "p", "Brier", "slope", "ECE")
    return _table((*head, "sens / spec at positive", "at negative"), rows)


def _cohort(name: str, evidence: Mapping[str, Any]) -> list[str]:
    found, facts = evidence[name], evidence["cohorts"][name]
    first = next(iter(found["subsets"].values()))
    lines = [f"## {TITLES[name]}: the shipped weights", ""]
    lines += [
        (
            f"{facts['patients']} patients, {first['sides']} sides, prevalence {first['prevalence']:.2f}, seed {facts['seed']}, "
            f"hospital {facts['hospital']}. Ceiling (the phantom's own risk as the score): {_auc(found['ceiling'])}."
        ),
        "",
        *_subsets(found),
        f"![ROC](roc-{name}.png) ![calibration](calibration-{name}.png) ![decision curves](decision-{name}.png)",
        "",
        f"![outcomes](confusion-{name}.png)",
        "",
        f"Per patient (the higher of two sides, for a metastasis on either): AUC {_auc(found['by_patient'])}.",
        "",
        "Subgroups (full input):",
        "",
    ]
    rows = [(g["by"], g["group"], str(g["sides"]), str(g["positive"]), _auc(g)) for g in found["subgroups"]]
    return lines + _table(("by", "group", "sides", "positive", "AUC"), rows)


def _heat(evidence: Mapping[str, Any]) -> list[str]:
    lines = [
        "## Heat-maps against the truth",
        "",
        "Positive sides; an image counts when it shows a lesion or node. On target: within one token of it.",
        "",
    ]
    head = (
        "cohort",
        "images of",
        "images",
        "hottest on target",
        "of images that speak for it",
        "strongest on target",
        "by chance",
        "overlap (IoU) of the top 5 %",
        "share of the map on target",
    )
    rows = []
    for cohort in ("test", "external"):
        for m, h in evidence[cohort]["heat"].items():
            shares = (
                "hottest_on_target",
                "hottest_on_target_where_it_speaks_for",
                "strongest_on_target",
                "by_chance",
                "iou_top",
                "mass_on_target",
            )
            rows.append((cohort, m, str(h["images"]), *(f"{h[s]:.2f}" for s in shares)))
    lines += _table(head, rows)
    lines += [
        "Hottest: the largest contribution, which is what a reader is shown. Strongest: the largest by size. Contributions of places",
        "only speak for; what speaks against lies evenly over a modality's images.",
        "",
    ]
    sanity = evidence["test"].get("sanity")
    if sanity:
        r, p = sanity["randomised"], sanity["painted_over"]
        over, other = p["lesions and nodes painted over"], p["elsewhere"]
        lines += [
            (
                f"Input weights of the fusion in random order: maps correlate {r['correlation_mean']:+.2f} with the shipped ones on average "
                f"({r['maps']} maps; 95 % of them within {r['correlation_p95_abs']:.2f})."
            ),
            (
                f"Lesions and nodes painted over with surrounding tissue ({p['sides']} positive sides): the logit falls by {over['mean_drop']:.2f} on average, "
                f"lower in {over['share_lower']:.0%}; the same shapes painted elsewhere: {other['mean_drop']:+.2f}, lower in {other['share_lower']:.0%}."
            ),
            "",
        ]
    return lines


def _name(head: str) -> str:
    """A head in words."""
    own, steps = same_schedule(head)
    return NAMES.get(own, own) + (f", {steps[1:]} steps" if steps else "")


def _trained(rows: Mapping[str, Any]) -> list[str]:
    """What is to be said of the heads' training before their table."""
    folded = {n: len(r["folds"]) for n, r in rows.items() if r["held_out"] or len(r["folds"]) > 1}
    most = max(folded.values(), default=1)
    short = "; ".join(f"{_name(n)}: {count}" for n, count in folded.items() if count < most)
    steps = next((r["training"]["steps"] for n, r in rows.items() if n == "cman" and r["training"]), "its")
    words = [
        (
            f"Trained on {most} of five folds by patient of the internal cohort{f' ({short})' if short else ''}, with one schedule of {steps} steps; "
            "held-out cohorts are read by the mean logit of a head's folds."
        )
    ]
    longer = [n for n in rows if n not in folded]
    if longer:
        words.append(
            f"Rows that name their steps ({'; '.join(_name(n) for n in longer)}) are one head each, trained on all patients of the internal "
            "cohort by one schedule of that length, and compared with the CMAN of that length: what more training does to the comparison."
        )
    words.append("How each was trained: baselines.json. The shipped fusion learned from the whole internal cohort too.")
    pixels = rows.get("early-pixels", {}).get("training")
    if pixels:
        words.append(
            "Early fusion of pixels is no head but a network of its own that learns from nothing, its encoders too: three of the kind "
            f"{pixels['network']}, {pixels['parameters'] / 1e6:.1f} million parameters, {pixels['steps']} steps of {pixels['batch']} sides, "
            f"{pixels['cpu_s'] / 60:.0f} processor minutes a fold; a GPU would train it further."
        )
    return [" ".join(words), ""]


def _baselines(evidence: Mapping[str, Any]) -> list[str]:
    found = evidence.get("baselines")
    if not found or not found["test"]:
        return ["## Baselines", "", "None is committed yet: `python -m models.cman.evidence.folds` trains them.", ""]
    lines = ["## Baselines on the same folds, the same frozen encoders", "", *_trained(found["test"])]
    missing = [NAMES[n] for n in NAMES if n not in found["test"]]
    lines += [f"Not trained: {'; '.join(missing)}.", ""] if missing else []
    for cohort, rows in found.items():
        lines += [f"### {TITLES[cohort]}", ""]
        lines += [f"![ROC](roc-heads-{cohort}.png)", ""]
        lines += _lost(rows) if cohort == "external" else []
        table = []
        for name, r in rows.items():
            t = r.get("t_test_over_folds")
            own, folds = (f"{np.mean(v):.3f} ± {np.std(v):.3f}" if v else "" for v in (r["held_out"], r["folds"]))
            table.append(
                (
                    _name(name),
                    _auc(r),
                    folds,
                    own,
                    *_minus(r.get("cman_minus_this")),
                    _p(t["p"]) if t else "",
                    *_minus(r["shipped_minus_this"]),
                    f"{r['brier']:.3f}",
                    f"{r['calibration_slope']:.2f}",
                )
            )
        head = (
            "head",
            "AUC (DeLong)",
            "single folds",
            "on what each fold held out",
            "CMAN minus this",
            "p (DeLong)",
            "p (t, folds)",
            "shipped minus this",
            "p",
            "Brier",
            "slope",
        )
        lines += _table(head, table)
    return lines


def _lost(rows: Mapping[str, Any]) -> list[str]:
    """What every head loses at the other hospital."""
    table = []
    for name, row in rows.items():
        r = row["lost"]
        more = f"{r['more_than_cman']:+.3f} ({r['more_low']:+.3f} to {r['more_high']:+.3f})" if "more_low" in r else ""
        table.append((_name(name), f"{r['auc']:+.3f} ({r['low']:+.3f} to {r['high']:+.3f})", more))
    return _table(("head", "AUC lost from the training hospital's patients to these", "more than CMAN loses"), table)


def _student(found: Mapping[str, Any] | None, than: str) -> list[str]:
    """The student's package beside the shipped one."""
    if not found:
        return []
    lines = [
        f"## The student: {found['package']} {found['version']}, {found['precision']}",
        "",
        (
            f"The same sides with all three modalities, read by the released package (manifest sha256 `{found['manifest_sha256']}`) "
            "with its own temperature and thresholds. Parameters, training and precision: its card."
        ),
        "",
    ]
    head = ("patients of", "AUC (DeLong)", f"minus {than}", "p", "Brier", "slope", "ECE", "sens / spec at positive")
    rows = []
    for name, title in TITLES.items():
        r = found[name]
        points = f"{r['sensitivity_at_positive']:.2f} / {r['specificity_at_positive']:.2f}"
        scale = (f"{r['brier']:.3f}", f"{r['calibration_slope']:.2f}", f"{r['ece']:.3f}")
        rows.append((title, _auc(r), *_minus(r["this_minus_shipped"]), *scale, points))
    lines += _table(head, rows)
    shares = (
        f"{TITLES[n].lower()} " + ", ".join(f"{m} {h['hottest_on_target']:.2f}" for m, h in found[n]["heat"].items())
        for n in TITLES
    )
    return [*lines, f"Hottest place on target: {'; '.join(shares)}.", ""]


def _studies(found: Mapping[str, Any]) -> list[str]:
    """What studies.py wrote: Grad-CAM, rounding, misregistration, label noise."""
    if not found:
        return []
    lines = [
        "## Studies that need torch",
        "",
        f"By `python -m models.cman.evidence.studies`, seed {found['seed']}.",
        "",
    ]
    own = found["grad_cam"]
    rows = []
    for m in SLOTS:
        a, b = own["contributions"][m], own["grad_cam"][m]
        pairs = (
            (f"{x[k]:.2f}" for x in (a, b))
            for k in ("strongest_on_target", "hottest_on_target", "iou_top", "mass_on_target")
        )
        rows.append((m, str(a["images"]), *(" / ".join(p) for p in pairs)))
    lines += [
        f"The served map beside Grad-CAM (Selvaraju et al. 2017) on the encoders' tokens, {own['sides']} positive sides, ours / Grad-CAM:",
        "",
    ]
    lines += _table(
        ("images of", "images", "strongest on target", "hottest on target", "IoU of the top 5 %", "share on target"),
        rows,
    )
    r = found["rounding"]
    pair = r["auc_int8_minus_float"]
    lines += [
        (
            f"Rounding of activations: int8 as shipped against the same seven-bit weights in float, {r['sides']} sides: probability differs by "
            f"{r['mean_abs_dp']:.4f} on average, {r['p99_abs_dp']:.4f} at the 99th percentile, {r['max_abs_dp']:.4f} at most; "
            f"{r['flips_at_positive']} sides change at the positive threshold; AUC {pair['difference']:+.4f} ({pair['low']:+.4f} to {pair['high']:+.4f})."
        ),
        "",
    ]
    shifts = {k: v for k, v in found["misregistered"].items() if k != "sides"}
    names = list(next(iter(shifts.values())))
    lines += [f"MRI planes moved at reading time, {found['misregistered']['sides']} sides, AUC:", ""]
    table = [
        (f"{by} tokens ({16 * int(by)} px)", *(f"{row[n]['auc']:.3f}" for n in names)) for by, row in shifts.items()
    ]
    lines += _table(("moved by", *(NAMES.get(n, n) for n in names)), table)
    if found.get("label_noise"):
        shares = sorted({s for row in found["label_noise"].values() for s in row})
        lines += ["Trained on drawn labels of which a share was turned over, AUC on the held-out cohort:", ""]
        noise = [
            (NAMES.get(n, n), *(_auc(row[s]) if s in row else "" for s in shares))
            for n, row in found["label_noise"].items()
        ]
        lines += _table(("head", *(f"{int(s)} % wrong" for s in shares)), noise)
    return lines


def page(evidence: Mapping[str, Any]) -> str:
    """The whole page."""
    numbers = {k: evidence[k] for k in ("package", "version", "manifest_sha256")}
    drawn = sum(s for what, s in evidence["seconds"].items() if what.endswith(("drawn", "encoded")))
    kept = ", patients and tokens kept from an earlier run" if drawn < KEPT else ""
    head = HEAD.format(
        kept=kept, seconds=sum(evidence["seconds"].values()), cores=evidence["machine"]["cores"], **numbers
    )
    lines = [head]
    if evidence["share"] < 1:
        lines += [f"**A trial on {evidence['share']:.0%} of every cohort: not the evidence.**", ""]
    for name in ("test", "external"):
        lines += _cohort(name, evidence)
    lines += _heat(evidence) + _baselines(evidence)
    lines += _student(evidence.get("student"), evidence["package"]) + _studies(evidence.get("studies") or {})
    lines += [
        "## Worst errors",
        "",
        "The most confident wrong answers of the held-out cohort, red speaks for, green is the truth.",
        "",
        "![worst errors](worst.png)",
        "",
    ]
    return "\n".join(lines)


Material = tuple[Tokens, Sides, Mapping[str, NDArray[np.uint8]]]


def worst(path: Path, reader: Reader, material: Material, logit: NDArray[np.float64], package: ModelPackage) -> None:
    """Draw the most confident errors with their maps and the truth."""
    tokens, sides, bits = material
    rows = []
    for kind, numbers in measure.worst(logit, sides, package.spec.temperature).items():
        for side in numbers:
            reading = measure.reading_of(reader, tokens, sides, side)
            images = []
            for m, slot in _SLOTS:
                picture = np.asarray(sides.images[m][side, slot]).max(0)
                truth = (bits[m][side, slot] & 9) > 0
                images.append(
                    {
                        "image": picture,
                        "heat": reading.heat[m][0, slot],
                        "truth": truth,
                        "title": f"{m} {SLOTS[m][slot]}",
                    }
                )
            prob = float(stats.chances(logit[side : side + 1], package.spec.temperature)[0])
            words = f"{kind.replace('_', ' ')}: says {prob:.2f}, the phantom's own risk was {sides.risk[side]:.2f} (patient {sides.case[side]})"
            rows.append((words, images))
    plots.case(path, rows)
