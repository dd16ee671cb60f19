"""The answer to "why did my study not run?" as lines for a terminal, in English or Chinese. Does no I/O.

Free text of tags never appears here: only counts, times, codes, words of the catalogue and the identifiers asked for.
"""

from collections.abc import Iterator, Sequence
from datetime import datetime

from casework.case import shown_words
from casework.ledger import CaseRow, OrderRow, Why, WhyCase
from casework.reasons import REASONS, reason

_WORDS = {
    "nothing": ("Nothing here matches that identifier.", "没有与该标识符匹配的内容。"),
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
    "refused": ("not used", "未使用"),
    "association": ("association", "连接"),
}


class _Speaker:
    """Chooses the language once."""

    def __init__(self, language: str) -> None:
        self._zh = language == "zh"

    def word(self, key: str) -> str:
        return _WORDS[key][self._zh]

    def what(self, code: str) -> str:
        if code not in REASONS:  # a newer program wrote it
            return code
        row = reason(code)
        return row.zh if self._zh else row.en

    def next(self, code: str) -> str:
        row = reason(code if code in REASONS else "INTERNAL")
        return row.next_zh if self._zh else row.next_en

    def state(self, case: CaseRow) -> str:
        return shown_words(case.state, case.waiting_for, chinese=self._zh)


def plain(text: str) -> str:
    """Text that moves no cursor and turns no line around: whatever can't be printed is replaced."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def explain(why: Why, language: str, now: datetime) -> Iterator[str]:
    """Lines for a person: what arrived, what each case waits for and since when, and what to do next.

    Identifiers may come from a sender or from the answer of a PACS, so every line is made plain.
    """
    yield from map(plain, _lines(why, language, now))


def _lines(why: Why, language: str, now: datetime) -> Iterator[str]:
    say = _Speaker(language)
    if not why.matched_by:
        yield say.word("nothing")
        yield f"{say.word('next')}: {say.next('NOT_FOUND')}"
        return
    counts = ", ".join(f"{count} {verdict}" for verdict, count in sorted(why.receipt_counts.items()))
    yield f"{say.word('matched')}: {why.matched_by}; {say.word('arrived')}: {counts or 0}"
    for association in why.associations[:5]:
        ended = association.end or "open"
        numbers = ", ".join(f"{n} {verdict}" for verdict, n in sorted(association.counts.items()) if n)
        yield f"  {association.opened_at:%Y-%m-%d %H:%M:%S} {say.word('association')} {ascii(association.calling)[1:-1]} ({association.address}) {ended} {numbers}".rstrip()
    for code, count in _refusals(why).items():
        yield f"  {say.word('refused')}: {count} x {code}: {say.what(code)} {say.next(code)}"
    for item in why.cases:
        yield from _case(item, say, now)
    yield f"{say.word('next')}: {say.next(why.next_code)}"


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


def _refusals(why: Why) -> dict[str, int]:
    found: dict[str, int] = {}
    for receipt in why.receipts:
        if receipt.code:
            found[receipt.code] = found.get(receipt.code, 0) + 1
    return found


def _case(item: WhyCase, say: _Speaker, now: datetime) -> Iterator[str]:
    case = item.case
    age = _age((now - case.changed_at).total_seconds())
    yield f"{say.word('case')} {case.id} {say.word('revision')} {case.revision}: {say.state(case)} ({say.word('since')} {age})"
    if item.code:
        yield f"  {item.code}: {say.what(item.code)}"
    if case.waiting_for and case.waiting_since and case.waiting_until:
        names = ", ".join(case.waiting_for)
        yield f"  {say.word('waits')} {names} {say.word('since')} {case.waiting_since:%Y-%m-%d %H:%M} {say.word('until')} {case.waiting_until:%Y-%m-%d %H:%M} UTC"
    for study in item.studies:
        numbers = " ".join(f"{modality} {count}" for modality, count in sorted(study.modalities.items()))
        expected = f" {say.word('of')} {study.expected}" if study.expected is not None else ""
        yield f"  {study.study_uid}: {numbers or 0}{expected}"
    for finding in item.findings:
        yield f"  {say.word('note')}: {finding.code} {finding.subject}: {say.what(finding.code)}"
    for delivery in item.deliveries:
        status = f" {delivery.status}" if delivery.status else ""
        again = f", {say.word('due')} {delivery.next_at:%H:%M:%S}" if delivery.next_at else ""
        proof = f", {say.word('proof')} {delivery.proof}" if delivery.proof else ""
        yield f"  {say.word('delivery')} {delivery.destination} {delivery.kind} {delivery.label}: {delivery.state.value}{status} ({say.word('try')} {delivery.attempt}{proof}{again})"
    if item.waiting_until is not None:
        yield f"  {say.word('due')}: {item.waiting_until:%Y-%m-%d %H:%M:%S}"


def _age(seconds: float) -> str:
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{max(0.0, seconds):.0f} s"
