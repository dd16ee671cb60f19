"""One page on a case, in two languages and two registers, made on demand from the stored result. Does no I/O.

A case without a result has a page too: it says so, and that this is no negative result.
"""

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from html import escape
from importlib.resources import files

from casework.report import texts
from casework.report.describe import limit_lines, method_lines, side_lines, stopped_sections, training_line
from casework.result import CaseResult

STYLE = files(__package__).joinpath("summary.css").read_text("utf-8")
_DIGEST = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
POLICY = f"default-src 'none'; style-src 'sha256-{_DIGEST}'; base-uri 'none'; form-action 'none'; sandbox"
"""The page's own Content-Security-Policy: its one style sheet and nothing else."""


@dataclass(frozen=True, slots=True)
class About:
    """Whose page it is. `reason`: why there is no result, or why it was withdrawn, in the page's language."""

    patient: str
    accessions: Sequence[str]
    dates: Sequence[str]
    made_at: datetime
    newest: bool = True
    withdrawn: bool = False
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Block:
    """A heading ("" for none) with its sentences."""

    heading: str
    lines: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Summary:
    """The page before it is laid out; `warnings` stand above everything."""

    language: str
    register: str
    title: str
    mark: str  # "UNVERIFIED ...", also at the foot
    patient: str
    warnings: tuple[str, ...]
    blocks: tuple[Block, ...]
    reviewed: bool  # whether a clinician has approved every sentence of the table


def summarise(result: CaseResult | None, about: About, language: str, register: str) -> Summary:
    """What the page says. `result` None: there is none, and the page says that this is not a negative one.

    Raises:
        ValueError: the language or the register is not one of the table's.
    """
    if language not in texts.LANGUAGES or register not in texts.REGISTERS:
        raise ValueError("language or register")

    def say(key: str, **values: object) -> str:
        return texts.say(key, language, register, **values)

    def joined(values: Sequence[str]) -> str:
        return ", ".join(v for v in values if v) or "-"

    reviewed = not texts.unreviewed()
    warnings = [say("research")]
    if not about.newest:
        warnings.append(say("summary.replaced"))
    if not reviewed:
        warnings.append(say("summary.unreviewed"))
    blocks = [Block(say("summary.answer"), (say("summary.none", reason=about.reason), say("summary.next")))]
    if about.withdrawn:  # what was withdrawn is not said again
        told = say("summary.withdrawn", reason=about.reason)
        blocks = [Block(say("summary.answer"), (told, say("summary.next")))]
    elif result is not None and not result.stopped:
        blocks = [
            Block(say("summary.answer"), (*_answers(result, language, register), say("summary.next"))),
            Block(say("summary.limits"), tuple(limit_lines(result, language, register))),
            Block(say("summary.method"), tuple(_method(result, language, register))),
        ]
    elif result is not None and register != "plain":
        parts = stopped_sections(result, language)
        answer = (*parts["impression"], *parts["finding"], *parts["recommendation"], say("summary.next"))
        blocks = [Block(say("summary.answer"), answer), Block(say("summary.method"), tuple(parts["comment"]))]
    made = say("summary.made", at=f"{about.made_at:%Y-%m-%d %H:%M} UTC")
    return Summary(
        language,
        register,
        say("title"),
        say("unverified"),
        say(
            "summary.patient",
            patient=about.patient or "-",
            accessions=joined(about.accessions),
            dates=joined([_day(d) for d in about.dates]),
        ),
        tuple(warnings),
        (*blocks, Block("", (made,))),
        reviewed,
    )


def _answers(result: CaseResult, language: str, register: str) -> list[str]:
    return [line for side in result.sides for line in side_lines(result, side, language, register)]


def _method(result: CaseResult, language: str, register: str) -> list[str]:
    if register != "plain":
        return method_lines(result, language)
    return [
        training_line(result.model, language, register),
        texts.say("heat", language, register),
        texts.say("revision", language, register, case=result.case_id, revision=result.revision),
    ]


def _day(text: str) -> str:
    return f"{text[:4]}-{text[4:6]}-{text[6:]}" if len(text) == 8 and text.isdigit() else text


def to_text(page: Summary) -> str:
    """The page as plain text."""
    blocks = ["\n".join(filter(None, (b.heading, *b.lines))) for b in page.blocks]
    return "\n\n".join([page.mark, page.title, page.patient, *page.warnings, *blocks]) + "\n"


def to_html(page: Summary) -> str:
    """The page as HTML that needs nothing else and runs nothing."""
    mark = f'<p class="mark">{escape(page.mark)}</p>'
    body = [mark, f"<h1>{escape(page.title)}</h1>", f'<p class="patient">{escape(page.patient)}</p>']
    body += [f'<p class="warning">{escape(line)}</p>' for line in page.warnings]
    for block in page.blocks:
        lines = "".join(f"<li>{escape(line)}</li>" for line in block.lines)
        heading = f"<h2>{escape(block.heading)}</h2>" if block.heading else ""
        body.append(f"<section>{heading}<ul>{lines}</ul></section>")
    lang = "zh-CN" if page.language == "zh" else "en"
    return (
        f'<!doctype html>\n<html lang="{lang}">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(page.title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        + "\n".join([*body, mark])
        + "\n</body>\n</html>\n"
    )
