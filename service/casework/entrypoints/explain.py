"""The answer to "why did my study not run?" as lines for a terminal, in English or Chinese. Does no I/O.

Free text of tags never appears here: only counts, times, codes, words of the catalogue and the identifiers asked for.
"""

import json
from collections.abc import Iterator, Sequence
from datetime import datetime

from casework.case import shown_words
from casework.config import Settings
from casework.entrypoints.ask import PacsAnswer, next_of
from casework.entrypoints.moments import STAGES, Language, about, describe
from casework.ledger import CaseRow, OrderRow, Queue, Why, WhyCase
from casework.reasons import REASONS, reason

_WORDS = {
    "matched": ("found by", "匹配依据"),
    "arrived": ("arrived", "收到"),
    "case": ("case", "病例"),
    "revision": ("revision", "版本"),
    "since": ("since", "自"),
    "until": ("until", "至"),
    "waits": ("waits for", "等待"),
    "studies": ("studies", "检查"),
    "of": ("of", "/"),
    "next": ("next", "下一步"),
    "due": ("due", "预定"),
    "delivery": ("delivery", "发送"),
    "try": ("try", "第几次"),
    "proof": ("proof by", "证明方式"),
    "note": ("note", "备注"),
    "accession": ("accession number", "检查号"),
    "study": ("study", "检查"),
    "patient": ("patient", "患者"),
    "instance": ("image", "图像"),
    "fetch": ("a fetch from the PACS", "从PACS获取的记录"),
    "detail": ("detail", "详情"),
    "stands": ("stands at", "当前阶段"),
    "timeline": ("what happened", "经过"),
    "turned_away": ("connections of the last day that brought nothing", "最近一天未带来图像的连接"),
    "here": ("this service listens as", "本服务的接收设置"),
    "pacs": ("PACS", "PACS"),
    "silent": ("not running, last seen", "未运行，最后出现于"),
    "ahead": ("ahead", "前面"),
    "running": ("running", "运行中"),
    "workers": ("workers", "分析进程"),
    "estimate": ("results in about", "预计等待"),
    "no_estimate": ("no estimate: no worker, or nothing measured yet", "无法估计：没有分析进程或尚无测量数据"),
    "runs": ("runs measured", "次实测"),
    "check": ("check", "检查项"),
    "pass": ("pass", "通过"),
    "warn": ("WARN", "警告"),
    "stop": ("STOP", "停止"),
    "not_available": ("not available", "不可用"),
    "image": ("image", "图像"),
    "used": ("used", "已使用"),
}


class _Speaker:
    """Chooses the language once."""

    def __init__(self, language: str) -> None:
        self.chinese = language == "zh"
        self.language: Language = "zh" if self.chinese else "en"

    def word(self, key: str) -> str:
        return _WORDS[key][self.chinese]

    def what(self, code: str) -> str:
        if code not in REASONS:  # a newer program wrote it
            return code
        row = reason(code)
        return row.zh if self.chinese else row.en

    def next(self, code: str) -> str:
        row = reason(code if code in REASONS else "INTERNAL")
        return row.next_zh if self.chinese else row.next_en

    def state(self, case: CaseRow) -> str:
        return shown_words(case.state, case.waiting_for, chinese=self.chinese)


def plain(text: str) -> str:
    """Text that moves no cursor and turns no line around: whatever can't be printed is replaced."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def explain(
    why: Why, language: str, now: datetime, settings: Settings | None = None, told: Sequence[PacsAnswer] = ()
) -> Iterator[str]:
    """Lines for a person: what arrived, where it stands and since when, what happened in order, and what to do next.

    Identifiers may come from a sender or from the answer of a PACS, so every line is made plain.
    """
    yield from map(plain, _lines(why, language, now, settings, told))


def _lines(
    why: Why, language: str, now: datetime, settings: Settings | None, told: Sequence[PacsAnswer]
) -> Iterator[str]:
    say = _Speaker(language)
    if why.matched_by:
        counts = ", ".join(f"{count} {verdict}" for verdict, count in sorted(why.receipt_counts.items()))
        yield f"{say.word('matched')}: {say.word(why.matched_by)}; {say.word('arrived')}: {counts or 0}"
    else:
        yield say.what("NEVER_ARRIVED")
        yield from _listening(settings, say)
    for item in why.cases:
        yield from _case(item, say, now)
    yield from _timeline(why, say)
    for answer in told:
        yield f"{say.word('pacs')} {answer.destination}: {say.what(answer.code)}"
        for study in answer.studies:
            numbers = " ".join(f"{modality} {count}" for modality, count in sorted(study.modalities.items()))
            yield f"  {study.study_date} {numbers} {study.study_uid} {study.accession_number}"
    yield from _troubles(why, say, now)
    code = next_code(why, told)
    stage = STAGES[why.stage][say.chinese]
    yield f"{say.word('stands')}: {stage}: {code}: {say.what(code)}"
    yield f"{say.word('next')}: {say.next(code)}"


def next_code(why: Why, told: Sequence[PacsAnswer] = ()) -> str:
    """The reason to act on: what a PACS says of something that never arrived says more than our not knowing it."""
    return (next_of(told) if told and not why.cases and why.next_code == "NEVER_ARRIVED" else "") or why.next_code


def _listening(settings: Settings | None, say: "_Speaker") -> Iterator[str]:
    """Where a sender has to send to: wrong title, address and port are the usual causes of silence."""
    if settings is not None:
        dicom = settings.dicom
        yield f"  {say.word('here')}: {dicom.ae_title} {dicom.host}:{dicom.port}"


def _timeline(why: Why, say: "_Speaker") -> Iterator[str]:
    if not why.timeline:
        return
    yield f"{say.word('timeline') if why.matched_by else say.word('turned_away')}:"
    for moment in why.timeline:
        stage = STAGES[moment.stage][say.chinese]
        code = f" [{moment.code}]" if moment.code else ""
        yield f"  {moment.at:%Y-%m-%d %H:%M:%S} {stage}: {describe(moment, say.language)}{code} {about(moment)}".rstrip()


def _troubles(why: Why, say: "_Speaker", now: datetime) -> Iterator[str]:
    """Doors that are not there."""
    for row in why.processes:
        if not row.alive(now):
            last = f" {row.code}: {say.what(row.code)}" if row.code else ""
            yield f"  ! {row.door} {row.host}: {say.word('silent')} {row.beat_at:%Y-%m-%d %H:%M:%S}{last}"


def explain_fetches(orders: Sequence[OrderRow], language: str) -> Iterator[str]:
    """Lines for a person: which PACS was asked, which studies it named, chosen or not and why."""
    say = _Speaker(language)
    for order in orders:
        words = say.what(order.code) if order.code else f"{len(order.candidates)} {say.word('studies')}"
        asked = f"{order.asked_at:%Y-%m-%d %H:%M:%S} " if order.asked_at else ""
        yield plain(f"{asked}{order.destination}: {order.state.value}: {words}")
        for row in order.candidates:
            images = " ".join(f"{modality} {count}" for modality, count in sorted(row.modalities.items()))
            yield plain(f"  {row.id} {row.study_date} {images} {row.study_uid}: {row.state.value}")
            detail = f" ({row.detail})" if row.detail else ""
            yield plain(f"    {row.code}: {say.what(row.code)}{detail}")


def _case(item: WhyCase, say: _Speaker, now: datetime) -> Iterator[str]:
    case = item.case
    age = _age((now - case.changed_at).total_seconds())
    yield f"{say.word('case')} {case.id} {say.word('revision')} {case.revision}: {say.state(case)} ({say.word('since')} {age})"
    for code in filter(None, (item.code, item.blocked)):
        yield f"  {code}: {say.what(code)}"
    if case.detail:
        yield f"  {say.word('detail')}: {case.detail}"
    if item.queue is not None:
        yield f"  {_queue(item.queue, say)}"
    if case.waiting_for and case.waiting_since and case.waiting_until:
        names = ", ".join(case.waiting_for)
        yield f"  {say.word('waits')} {names} {say.word('since')} {case.waiting_since:%Y-%m-%d %H:%M} {say.word('until')} {case.waiting_until:%Y-%m-%d %H:%M} UTC"
    for study in item.studies:
        numbers = " ".join(f"{modality} {count}" for modality, count in sorted(study.modalities.items()))
        expected = f" {say.word('of')} {study.expected}" if study.expected is not None else ""
        yield f"  {study.study_uid}: {numbers or 0}{expected}"
    for finding in item.findings:
        yield f"  {say.word('note')}: {finding.code} {finding.subject}: {say.what(finding.code)}"
    yield from _gate(item.result_json, say)
    for delivery in item.deliveries:
        status = f" {delivery.status}" if delivery.status else ""
        again = f", {say.word('due')} {delivery.next_at:%H:%M:%S}" if delivery.next_at else ""
        proof = f", {say.word('proof')} {delivery.proof}" if delivery.proof else ""
        yield f"  {say.word('delivery')} {delivery.destination} {delivery.kind} {delivery.label}: {delivery.state.value}{status} ({say.word('try')} {delivery.attempt}{proof}{again})"
    if item.waiting_until is not None:
        yield f"  {say.word('due')}: {item.waiting_until:%Y-%m-%d %H:%M:%S}"


def _queue(queue: Queue, say: "_Speaker") -> str:
    """Who is ahead, and an estimate only where there is something to estimate from."""
    words = f"{say.word('ahead')}: {queue.ahead}, {say.word('running')}: {queue.running}, {say.word('workers')}: {queue.workers}"
    if queue.estimate_s is None:
        return f"{words}; {say.word('no_estimate')}"
    low, high = queue.estimate_s
    return f"{words}; {say.word('estimate')} {_age(low)} - {_age(high)} ({queue.runs} {say.word('runs')})"


def _gate(result_json: str, say: _Speaker) -> Iterator[str]:
    """What every check of the input gate came to, and every image with its reason, those of a series together."""
    try:
        document = json.loads(result_json) if result_json else {}
        checks, choices = document.get("gate", []), document.get("choices", [])
    except (ValueError, AttributeError):
        return
    for check in checks:
        value = f" ({check['value']})" if check["value"] else ""
        severity = say.word(check["severity"])
        words = f": {say.what(check['code'])}" if check["severity"] in ("warn", "stop") else ""
        yield f"  {say.word('check')} {severity} {check['code']}{value}{words}"
    for choice in choices:
        count, series = len(choice["instances"]), choice["series_instance_uid"]
        uids = choice["instances"][0] if count == 1 else f"{count} x {series}"
        words = f"{choice['code']}: {say.what(choice['code'])}" if choice["code"] else say.word("used")
        detail = f" ({choice['detail']})" if choice["detail"] else ""
        yield f"  {say.word('image')} {choice['modality']} {uids}: {words}{detail}"


def _age(seconds: float) -> str:
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{max(0.0, seconds):.0f} s"
