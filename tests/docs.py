"""Write the documents that are generated from code, or check that they are up to date.

`python -m tests.docs` writes them, `--check` exits 1 when one would change.
"""

import ast
import inspect
import sys
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

from casework import case, checks, config, reasons
from casework.entrypoints.moments import STAGES
from tests.bench.reliability.page import reliability_page
from tests.security import requirements, threats

GATE_TEXT = """# The input gate

Generated from `casework.checks` by `make docs`. Every case is checked before it is analysed. A check **passes**, **warns** (the
analysis runs and its report says so) or **stops**: nothing is analysed, and each breast study of the case gets a document that
says so (Basic Text SR, series 9009), so that silence is never read as a negative result. What can't be measured, or what the
model's package says nothing about, is **not available**, never a pass. `casework why` and `GET /v1/cases/{id}` show all of it.

A site changes what a finding leads to by `[gate] severity = ["VIEW_MISSING=stop", "IMPLANT_PRESENT=warn"]`. "always" can't be weakened:
these keep a wrong side or patient from ever getting an answer, and a case without an image from getting one.

Limits on pixels were set between what phantoms and the real files of the tests show and what a reader would call spoiled:
the breast's wall is at least 4.9 times as tall at its own edge as at the other (limit 1.5); at most 0.9 % of a breast lies at
the end of the grey scale (limit 5 %); a resting phantom's phases differ by at most 2.9 mm, and a shift of 10 mm is measured as 8 to 12
(limit 4 mm; only the whole body's in-plane shift is seen); the two commonest greys fill at most 71 % of a real ultrasound picture, 87 %
or more of a page of text (limit 80 %).
"""
DOCS = Path(__file__).resolve().parents[1] / "docs"


def main() -> int:
    """Write or check every generated document."""
    stale = []
    documents = {
        "reasons.md": reason_page(),
        "configuration.md": configuration_page(),
        "states.md": states_page(),
        "why.md": why_page(),
        "gate.md": gate_page(),
        "reliability.md": reliability_page(),
        "threat-model.md": threats.page(),
        "traceability.md": requirements.page(),
    }
    for name, text in documents.items():
        path = DOCS / name
        if "--check" in sys.argv:
            if not path.exists() or path.read_text("utf-8") != text:
                stale.append(name)
        else:
            path.write_text(text, "utf-8")
            print("wrote", path.relative_to(DOCS.parent))
    for name in stale:
        print(f"docs/{name} is not what the code says: run make docs", file=sys.stderr)
    return 1 if stale else 0


def reason_page() -> str:
    """The catalogue of reason codes, by family."""
    lines = [
        "# Reason codes",
        "",
        "Generated from `casework.reasons` by `make docs`. Codes are part of the interface.",
        "",
    ]
    for family in reasons.Family:
        lines += [
            f"## {family.value}",
            "",
            "| code | what happened | what to do | 说明 | 操作 |",
            "| --- | --- | --- | --- | --- |",
        ]
        for row in reasons.REASONS.values():
            if row.family is family:
                lines.append(f"| {row.code} | {row.en} | {row.next_en} | {row.zh} | {row.next_zh} |")
        lines.append("")
    return "\n".join(lines)


def gate_page() -> str:
    """The checks of the input gate."""
    head = (GATE_TEXT, "| check | looks at | when found | what it says | 说明 |", "| --- | --- | --- | --- | --- |")
    lines = [*head]
    for row in checks.ROWS:
        words = reasons.REASONS[row.code]
        default = f"{row.severity.value}{', always' if row.fixed else ''}"
        lines.append(f"| {row.code} | {row.looks_at} | {default} | {words.en} | {words.zh} |")
    return "\n".join([*lines, ""])


def configuration_page() -> str:
    """Every setting with its default, its environment variable and what the source says of it."""
    lines = [
        "# Configuration",
        "",
        "Generated from `casework.config` by `make docs`. One TOML file (`--config` or `CASEWORK_CONFIG`); the environment",
        "wins over the file; secrets are files. Lists of tables: `[[dicom.peer]]`, `[[destination]]`, `[[profile]]`.",
        "",
    ]
    sections: list[tuple[str, Any]] = [("dicom", config.Dicom), ("dicom.peer (repeated)", config.Peer)]
    sections += [
        ("http", config.Http),
        ("storage", config.Storage),
        ("assembly", config.Assembly),
        ("policy", config.Policy),
    ]
    sections += [("fetch", config.Fetch)]
    sections += [("destination (repeated)", config.Destination), ("profile (repeated)", config.Profile)]
    sections += [("work", config.Work), ("gate", config.Gate), ("report", config.Report)]
    sections += [("queue", config.Queue), ("metrics", config.Metrics)]
    sections += [("tls", config.Tls), ("oidc", config.Oidc), ("signing", config.Signing)]
    sections += [("retention", config.Retention)]
    sections += [("engine", config.Engine), ("traces", config.Traces), ("webhook (repeated)", config.Webhook)]
    missing = {f.name for f in fields(config.Settings)} - {name.split(" ")[0] for name, _ in sections}
    assert not missing, f"settings that no reader would find: {missing}"
    for name, kind in sections:
        doc = inspect.getdoc(kind) or ""
        lines += [f"## {name}", "", doc, "", "| setting | default | environment | notes |", "| --- | --- | --- | --- |"]
        notes = _comments(kind)
        for f in fields(kind):
            default = "(needed)" if f.default is MISSING and f.default_factory is MISSING else repr(f.default)
            default = "none" if f.default == () else default
            environment = "" if "repeated" in name or f.default == () else f"CASEWORK_{name}_{f.name}".upper()
            lines.append(f"| {f.name} | {default} | {environment} | {notes.get(f.name, '')} |")
        lines.append("")
    return "\n".join(lines)


def states_page() -> str:
    """The transition tables, as tables and as diagrams."""
    lines = [
        "# States",
        "",
        "Generated from `casework.case` by `make docs`. Any other move is refused by the database.",
        "",
    ]
    lines += [
        "## What people see",
        "",
        "The page, the lists, `casework cases` and `why` show these; the API names both.",
        "",
    ]
    lines += [
        "| shown | 显示 | what it means | 含义 | code | states of the case |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for seen, (en, zh, meaning, meaning_zh) in case.SHOWN_WORDS.items():
        states = ", ".join(f"`{state}`" for state in case.CaseState if case.SHOWN[state] is seen)
        own = states or "`receiving`, while a modality is waited for"
        lines.append(f"| {en.format('MR')} | {zh.format('MR')} | {meaning} | {meaning_zh} | `{seen}` | {own} |")
    lines.append("")
    tables: list[tuple[str, Any]] = [
        ("Case", case.CASE_MOVES),
        ("Job", case.JOB_MOVES),
        ("Delivery", case.DELIVERY_MOVES),
        ("Question to a PACS", case.ORDER_MOVES),
        ("Study that a PACS named", case.CANDIDATE_MOVES),
    ]
    for name, moves in tables:
        lines += [f"## {name}", "", "```mermaid", "stateDiagram-v2"]
        lines += [
            f"  {source.value} --> {target.value}" for source, targets in moves.items() for target in sorted(targets)
        ]
        lines += ["```", ""]
    return "\n".join(lines)


def why_page() -> str:
    """What `casework why` says in each situation of the table that its tests bring about."""
    from tests.why.table import SITUATIONS

    lines = [
        "# Why did my study not run?",
        "",
        "Generated from `tests/why/table.py` by `make docs`; `tests/why/test_situations.py` brings each situation about and asks.",
        "",
        "`casework why QUERY` (accession number, Study Instance UID, Patient ID, SOP Instance UID or case id), `--json`,",
        "`--language zh`; `GET` or `POST /v1/why`; the box on the status page. The answer holds where it stands, what happened",
        "in order with times, and what to do. When nothing is known here, the command asks the PACS (`--no-ask`: it doesn't; by",
        "the API with `ask_pacs`), within eight seconds.",
        "",
        "| situation | stands at | code | what it says | next | 情形 | 说明 | 操作 |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in SITUATIONS.values():
        says = reasons.REASONS[row.code]
        stage = STAGES[row.stage][0]
        cells = (row.en, stage, row.code, says.en, says.next_en, row.zh, says.zh, says.next_zh)
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join([*lines, ""])


def _comments(kind: type) -> dict[str, str]:
    """The trailing comment of each field's line."""
    source = inspect.getsource(kind).splitlines()
    found = {}
    for node in ast.walk(ast.parse("\n".join(source))):
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            _, _, comment = source[node.lineno - 1].partition("  # ")
            found[node.target.id] = comment.replace("|", "\\|")
    return found


if __name__ == "__main__":
    sys.exit(main())
