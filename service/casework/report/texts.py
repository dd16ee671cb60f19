"""Every sentence that a result says, in English and Chinese: one table to review. Does no I/O.

Rules: never stronger than the number; "not analysed" is never worded like "negative"; English rows are ASCII, so that
they fit every character set.
"""

from collections.abc import Mapping

from casework.result import Outcome, Side

LANGUAGES = ("en", "zh")

# fmt: off
_ROWS: Mapping[str, tuple[str, str]] = {
    "title": ("AI analysis of the axillary lymph nodes", "腋窝淋巴结AI分析"),
    "side.R": ("Right", "右侧"),
    "side.L": ("Left", "左侧"),
    "axilla.R": ("Right axilla", "右侧腋窝"),
    "axilla.L": ("Left axilla", "左侧腋窝"),
    "outcome.positive": ("findings suspicious for lymph node metastasis", "可疑淋巴结转移"),
    "outcome.negative": ("no finding above the model's threshold; this does not exclude metastasis", "未见超过模型阈值的征象；不能排除转移"),
    "outcome.indeterminate": ("indeterminate; the model can't decide", "不确定；模型无法判定"),
    "outcome.insufficient": ("NOT ANALYSED, the images of this side are not sufficient; this is not a negative result", "未分析：该侧影像不足；这不是阴性结果"),
    "word.positive": ("suspicious", "可疑"),
    "word.negative": ("below threshold", "低于阈值"),
    "word.indeterminate": ("indeterminate", "不确定"),
    "word.insufficient": ("not analysed", "未分析"),
    "side": ("{axilla}: {outcome}. AI probability of axillary nodal metastasis: {probability} %.", "{axilla}：{outcome}。AI评估的腋窝淋巴结转移概率：{probability} %。"),
    "side.silent": ("{axilla}: {outcome}.", "{axilla}：{outcome}。"),
    "evidence": ("{axilla}, evidence by modality (share of the model's logit, positive speaks for metastasis): {shares}.", "{axilla}，各影像的贡献（模型logit份额，正值支持转移）：{shares}。"),
    "used": ("{axilla}, images used: {images}.", "{axilla}，所用影像：{images}。"),
    "used.none": ("{axilla}, images used: none.", "{axilla}，所用影像：无。"),
    "limit": ("Limitation: {words} [{code}]{subjects}", "限制：{words} [{code}]{subjects}"),
    "limit.none": ("No limitation was noted by the input checks.", "输入检查未发现限制。"),
    "thresholds": ("Thresholds on the probability: {thresholds}.", "概率阈值：{thresholds}。"),
    "threshold.positive_at": ("positive at {value} % or above", "≥ {value} % 为阳性"),
    "threshold.negative_below": ("negative below {value} %, indeterminate between", "< {value} % 为阴性，介于两者之间为不确定"),
    "threshold": ("{name} {value}", "{name} {value}"),
    "model": ("Model {name} {version}, package {sha}; engine {engine}; run {digest}.", "模型 {name} {version}，包 {sha}；引擎 {engine}；运行 {digest}。"),
    "heat": ("Heat-maps show where the model found its evidence; they are not outlines of anatomy.", "热力图显示模型依据所在的位置，并非解剖轮廓。"),
    "training.unknown": ("The model's package does not state what it was trained on.", "该模型的软件包未说明其训练数据。"),
    "research": ("AI research result. Not a medical device, not for diagnosis. Made by software and not verified by a physician; read it only together with the source images.", "AI研究结果。非医疗器械，不可用于诊断。由软件生成，未经医师审核；仅可与原始影像一同阅读。"),
    "siblings": ("The same case is also reported in: {studies}.", "同一病例亦报告于：{studies}。"),
    "study": ("{modalities} study of {date}, accession {accession}", "{date} {modalities} 检查，检查号 {accession}"),
    "modality.MG": ("mammography", "乳腺X线"),
    "modality.MR": ("MRI", "磁共振"),
    "modality.US": ("ultrasound", "超声"),
    "projection": ("projection over {count} source images", "由{count}幅源图像投影"),
    "revision": ("Case {case}, revision {revision}.", "病例 {case}，第 {revision} 版。"),
}
# fmt: on

# The views of an MR breast that the model reads, as marks on a picture.
VIEWS: Mapping[tuple[str, str], str] = {
    ("MR", "AX"): "AX MIP",
    ("MR", "SAG"): "SAG MIP",
    ("MR", "AX_SUP"): "AX MIP sup.",
    ("MR", "AX_INF"): "AX MIP inf.",
}


def say(key: str, language: str, **values: object) -> str:
    """One sentence in one language.

    Raises:
        KeyError: no such sentence or language, which is a programming error.
    """
    return _ROWS[key][LANGUAGES.index(language)].format(**values)


def sentences() -> tuple[str, ...]:
    """All sentences, for the test that proves the table whole."""
    return tuple(_ROWS)


def axilla(side: Side, language: str) -> str:
    """The axilla of a side in words."""
    return say(f"axilla.{side.value}", language)


def outcome(value: Outcome, language: str) -> str:
    """An outcome in words."""
    return say(f"outcome.{value.value}", language)


def modality(name: str, language: str) -> str:
    """A modality in words; unknown ones stay as they are."""
    return say(f"modality.{name}", language) if f"modality.{name}" in _ROWS else name


def view_mark(modality_name: str, view: str) -> str:
    """A view as it is marked on a picture, e.g. "MLO", "AX MIP", "frame 3"."""
    if modality_name == "US":
        return f"US {view}"
    return VIEWS.get((modality_name, view), view)
