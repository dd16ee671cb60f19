"""The decision manual (说明书) of a package in English and Chinese, from its manifest and evaluation. Writes two files.

    python -m models.cman.manual [--package models/cman]

Every number is read from manifest.json and evaluation.json, and the picture and figures of the worst errors from
docs/evidence where `make evidence` has left them about the same weights, so that the manual can't drift from what was
measured; a test compares the committed text with what this writes.
"""

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
EVIDENCE = ROOT / "docs" / "evidence"
FULL = "MG+MR+US"

TEXTS = {
    "en": """# {name} {version}: decision manual

**{intended_use}** This page says what a result means and where it is wrong. All numbers are from synthetic phantoms.

## What it looks at

For each breast: up to two mammographic views, four projections of a dynamic MRI and three ultrasound frames. Each image is cut into 14 x 14 places.
The network notes what each place looks like, lets the places of one modality ask the others' (is what is spiculated here
also what washes out there?), weighs the answers and adds them up. The sum is the score. Nothing else goes in: no age, no
report, no earlier result.

## What the score means

A probability that the axilla of that side holds a lymph-node metastasis, **for a population like the phantoms, in which
{prevalence:.0%} of sides have one**. In another population the same score means another probability: it has to be calibrated anew.

| said | when | of 100 sides with metastasis | of 100 without | in {sides} held-out sides, a metastasis was there in |
| --- | --- | --- | --- | --- |
| positive | score at least {positive_at:.3f} | {pos_true:.0f} | {pos_false:.0f} | {ppv:.0%} |
| indeterminate | between | {mid_true:.0f} | {mid_false:.0f} | {mid:.0%} |
| negative | score below {negative_below:.3f} | {neg_true:.0f} | {neg_false:.0f} | {npv_miss:.0%} |

**A negative result does not exclude a metastasis**: of 100 sides that have one, {neg_true:.0f} were said to be negative. Indeterminate means what it says: the score does
not help. Insufficient means that images are missing; nothing was decided.

## Shares and heat-maps

The modalities' shares add up to the score. A heat-map shows where evidence for a metastasis was collected. It is no outline
of a lesion. What speaks against is that little was found: that lies evenly over all images of a modality and is not drawn,
so a map without heat is no proof of health.
{pointing}

## When images are missing

| images of | AUC (95 %) | positive at | negative below |
| --- | --- | --- | --- |
{subsets}

With fewer modalities the score lies nearer the prevalence and decides less; each set of modalities has thresholds of its
own{spread_en}.

## Where it fails

- At another hospital (other scanners, more noise, less contrast) the AUC fell from {auc:.3f} to {auc_external:.3f}.
- The phantom's own risk, read as a score, reaches {ceiling:.3f} on these sides: the label is partly chance, and some errors are such.
{errors}
- It has never seen a real image. On one, whatever it says is meaningless.

## Before anyone relies on it

Calibrate and evaluate on the site's own cases (`python -m models.cman.folder`, then train, release and `make evidence`); compare what it
says with histology; keep people in the loop. {licence}
""",
    "zh": """# {name} {version}：决策说明书

**仅供研究与软件集成使用；以合成模体训练；不得用于临床，不是医疗器械。** 本页说明结果的含义和出错之处。所有数字均来自合成模体。

## 它看什么

每侧乳腺：最多两个乳腺X线体位、四个动态MRI投影、三帧超声。每幅图像分为14×14个位置。网络记下每个位置的样子，让一种模态的位置去询问其他模态（这里的毛刺，是否就是那里的廓清？），对回答加权求和，和即为评分。除此之外没有任何输入：没有年龄，没有报告，没有既往结果。

## 评分的含义

该侧腋窝存在淋巴结转移的概率，**前提是人群与模体相同，即{prevalence:.0%}的侧有转移**。在其他人群中，同一评分意味着不同的概率，必须重新校准。

| 结论 | 条件 | 每100个有转移的侧 | 每100个无转移的侧 | {sides}个留出侧中确有转移的比例 |
| --- | --- | --- | --- | --- |
| 阳性 | 评分不低于{positive_at:.3f} | {pos_true:.0f} | {pos_false:.0f} | {ppv:.0%} |
| 不确定 | 介于两者之间 | {mid_true:.0f} | {mid_false:.0f} | {mid:.0%} |
| 阴性 | 评分低于{negative_below:.3f} | {neg_true:.0f} | {neg_false:.0f} | {npv_miss:.0%} |

**阴性结果不能排除转移**：每100个有转移的侧中，有{neg_true:.0f}个被判为阴性。“不确定”即评分没有帮助。“资料不足”表示缺少图像，未作任何判断。

## 份额与热图

各模态的份额之和等于评分。热图显示支持转移的证据的收集位置，不是病灶轮廓。反对的依据是“所见甚少”：它均匀分布在该模态的所有图像上，不绘出；因此没有热区的图不能证明健康。
{pointing}

## 缺少图像时

| 图像 | AUC（95%） | 阳性阈值 | 阴性阈值 |
| --- | --- | --- | --- |
{subsets}

模态越少，评分越接近患病率，能决定的也越少；每种模态组合有各自的阈值{spread_zh}。

## 何处会出错

- 在另一家医院（其他扫描仪、更多噪声、更低对比度），AUC从{auc:.3f}降至{auc_external:.3f}。
- 以模体自身的风险作为评分，在这些侧上也只达到{ceiling:.3f}：标签部分出于偶然，有些错误属于此类。
{errors}
- 它从未见过真实图像。对真实图像，它的任何输出都没有意义。

## 依赖它之前

请用本院病例校准和评估（`python -m models.cman.folder`，然后训练、发布、`make evidence`）；与病理结果对照；由人作最后判断。{licence}
""",
}
POINTING = {
    "en": "On positive phantoms the hottest place of an image lay on a lesion or node in {words}.",
    "zh": "在阳性模体中，图像最热处位于病灶或淋巴结上的比例：{words}。",
}
SPREAD = {
    "en": ". A score that moves by more than {:.2f} when one modality is left out decides nothing",
    "zh": "。若去掉任一模态后评分变化超过{:.2f}，则不作判断",
}
ERRORS = {
    "en": "- The most confident wrong answers of {patients} held-out patients (red speaks for, green is the truth):\n\n  ![worst errors]({path})\n",
    "zh": "- {patients}例留出患者中最自信的错误（红色表示支持，绿色为真值）：\n\n  ![最严重的错误]({path})\n",
}


def _points(numbers: Mapping[str, float], prevalence: float) -> dict[str, float]:
    """Shares of both kinds of sides by outcome, and how often a metastasis was there, from the prespecified points."""
    true = {"pos": numbers["sensitivity_at_positive"], "neg": 1 - numbers["sensitivity_at_negative"]}
    false = {"pos": 1 - numbers["specificity_at_positive"], "neg": numbers["specificity_at_negative"]}
    for kind in (true, false):
        kind["mid"] = 1 - kind["pos"] - kind["neg"]
    found = {}
    for outcome, name in (("pos", "ppv"), ("mid", "mid"), ("neg", "npv_miss")):
        sick, well = prevalence * true[outcome], (1 - prevalence) * false[outcome]
        found[name] = sick / max(sick + well, 1e-9)
        found |= {f"{outcome}_true": 100 * true[outcome], f"{outcome}_false": 100 * false[outcome]}
    return found


def _interval(row: Mapping[str, float]) -> str:
    low, high = (row.get(f"delong_{s}", row.get(s)) for s in ("low", "high"))
    return f"{row['auc']:.3f} ({low:.3f} to {high:.3f})"


def _subset(name: str, row: Mapping[str, float], manifest: Mapping[str, Any]) -> str:
    cut = manifest.get("subset_thresholds", {}).get(name, manifest["thresholds"])
    return f"| {name} | {_interval(row)} | {cut['positive_at']:.3f} | {cut['negative_below']:.3f} |"


def write(language: str, manifest: Mapping[str, Any], found: Mapping[str, Any], evidence: Mapping[str, Any]) -> str:
    """The manual's text. found: the package's evaluation; evidence: `make evidence` of the same weights, or empty."""
    test, external = (evidence.get(n) or found[n] for n in ("test", "external"))
    full = test["subsets"][FULL]
    shares = (
        {m: h["hottest_on_target"] for m, h in test["heat"].items()}
        if evidence
        else {m: p["share_on_target"] for m, p in found["pointing_game"].items()}
    )
    words = ", ".join(f"{m} {share:.0%}" for m, share in shares.items())
    errors = ""
    if evidence:
        patients = evidence["cohorts"]["test"]["patients"]
        errors = ERRORS[language].format(patients=patients, path="../../docs/evidence/worst.png")
    return TEXTS[language].format(
        name=manifest["name"],
        version=manifest["version"],
        intended_use=manifest["intended_use"],
        licence=manifest["licence"] + ("." if language == "en" else "。"),
        prevalence=full["prevalence"],
        sides=full["sides"],
        **manifest["thresholds"],
        **_points(full, full["prevalence"]),
        pointing=POINTING[language].format(words=words),
        subsets="\n".join(_subset(name, row, manifest) for name, row in test["subsets"].items()),
        spread_en=SPREAD["en"].format(manifest["spread_limit"]) if "spread_limit" in manifest else "",
        spread_zh=SPREAD["zh"].format(manifest["spread_limit"]) if "spread_limit" in manifest else "",
        auc=full["auc"],
        auc_external=external["subsets"][FULL]["auc"],
        ceiling=test["ceiling"]["auc"],
        errors=errors,
    )


def manuals(package: Path, evidence_file: Path = EVIDENCE / "evidence.json") -> dict[str, str]:
    """The text by language."""
    manifest = json.loads((package / "manifest.json").read_text("utf-8"))
    found = json.loads((package / "evaluation.json").read_text("utf-8"))
    evidence: dict[str, Any] = {}
    if evidence_file.exists():
        evidence = json.loads(evidence_file.read_text("utf-8"))
        if (evidence["package"], evidence["version"]) != (manifest["name"], manifest["version"]):
            evidence = {}
    return {language: write(language, manifest, found, evidence) for language in TEXTS}


def store(package: Path) -> None:
    """Write manual.en.md and manual.zh.md into a package's folder."""
    for language, text in manuals(package).items():
        (package / f"manual.{language}.md").write_text(text, "utf-8")


def main() -> None:
    """Write manual.en.md and manual.zh.md into the package's folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--package", type=Path, default=Path(__file__).parent)
    options = parser.parse_args()
    store(options.package)


if __name__ == "__main__":
    main()
