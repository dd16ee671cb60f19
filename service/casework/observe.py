"""Structured logs with an allow-list of fields, and the names of all metrics. Writes to standard error only.

A log line is one JSON object: event name plus allowed fields. A field that is not on the list is dropped and counted,
so that no name, birth date, accession number or free text of a tag can reach a log by accident.
"""

import json
import logging
import os
import resource
import sys
import threading
import warnings
from collections.abc import MutableMapping
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any

import structlog
from prometheus_client import Counter, Gauge, Histogram

ALLOWED_FIELDS = frozenset(
    """event level timestamp door process pid port host code state from_state to_state case_id job_id instance_id
    delivery_id artefact_id association_id destination kind count bytes seconds stage attempt fence status version
    model engine error_type where path_kind setting signal child reason revision modality shape requests
    dropped_fields audit_head""".split()  # noqa: SIM905 - a list of forty quoted words reads worse
)

DROPPED_FIELDS = Counter("casework_log_fields_dropped_total", "Log fields that were not on the allow-list.")
INSTANCES = Counter("casework_instances_total", "Arrivals by door and verdict.", ["door", "verdict", "code"])
ASSOCIATIONS = Gauge("casework_associations_open", "Open associations.")
STORE_SECONDS = Histogram("casework_store_seconds", "From the last byte of an instance to its acknowledge.", ["door"])
FETCHES = Counter(
    "casework_fetches_total",
    "Questions to a PACS and studies fetched; code empty = well.",
    ["destination", "what", "code"],
)
FETCH_IMAGES = Counter(
    "casework_fetched_images_total", "Images that were fetched, by verdict.", ["destination", "verdict"]
)
FETCH_SECONDS = Histogram(
    "casework_fetch_seconds", "Time to fetch one study.", ["destination"], buckets=(0.1, 0.5, 1, 5, 15, 60, 300, 1800)
)
REPORTS_HERE = Counter("casework_reports_here_total", "Cases whose reports the worker made itself: its helper failed.")
QUEUE_DROPPED = Counter("casework_queue_dropped_total", "Messages that no job came of, by why.", ["why"])
QUEUE_RUNG = Counter("casework_queue_published_total", "Job ids that were published, by lane.", ["lane"])
ENGINE = Gauge("casework_engine", "1 for the engine that serves.", ["runner", "precision"])
ENGINE_PASSED_OVER = Gauge(
    "casework_engine_passed_over", "1 for an engine of the configured order that could not serve.", ["runner", "code"]
)
DECODER_PASSED_OVER = Counter(
    "casework_decoder_passed_over_total", "Decode children that fell back to the CPU's decoder.", ["decoder", "why"]
)
RETENTION = Counter(
    "casework_retention_removed_total", "Objects whose bytes the retention policy took, by kind.", ["kind"]
)
STAGE_SECONDS = Histogram("casework_stage_seconds", "Time of one stage of a case.", ["stage"])


def _only_allowed(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    dropped = [key for key in event if key not in ALLOWED_FIELDS]
    for key in dropped:
        del event[key]
    if dropped:
        DROPPED_FIELDS.inc(len(dropped))
        event["dropped_fields"] = len(dropped)
    return event


_newest_error: list[tuple[str, datetime]] = []


def _remember_error(_: Any, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Keep the code of the newest error, for those who ask how this process is."""
    if method in ("error", "critical") and event.get("code"):
        _newest_error[:] = [(str(event["code"]), datetime.now(UTC))]
    return event


def last_error() -> tuple[str, datetime] | None:
    """Code and time of the newest error that this process has logged."""
    return _newest_error[0] if _newest_error else None


def setup_logging(process: str, level: str = "INFO") -> None:
    """Send structured JSON lines to standard error and silence the libraries, whose messages may quote tag values."""
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _only_allowed,
            _remember_error,
            structlog.processors.JSONRenderer(serializer=json.dumps, default=str),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level]),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    structlog.contextvars.bind_contextvars(process=process)
    for library in ("pydicom", "pynetdicom", "uvicorn", "uvicorn.access", "uvicorn.error", "httpx", "highdicom"):
        logging.getLogger(library).handlers = [logging.NullHandler()]
        logging.getLogger(library).propagate = False


def keep_private() -> None:
    """No core dumps, which hold what was in memory, and new files for their owner only. Call first thing in a process."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.umask(0o077)


def hide_values() -> None:
    """Report warnings and errors that nobody caught by their kind and place: their words may quote a patient's data.

    Call once, first thing in a process of the service (pydicom's warnings repeat the values that they are about).
    """
    sys.excepthook = lambda kind, _, trace: _uncaught(kind, trace)
    threading.excepthook = lambda failure: _uncaught(failure.exc_type, failure.exc_traceback)
    warnings.showwarning = lambda _, kind, file, line, *__: log.warning(
        "python.warning", error_type=kind.__name__, where=f"{Path(file).name}:{line}"
    )


def _uncaught(kind: type[BaseException], trace: TracebackType | None) -> None:
    places = []
    while trace is not None:
        places.append(f"{Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}")
        trace = trace.tb_next
    log.critical("python.uncaught", error_type=kind.__name__, where=" > ".join(places[-4:]))


log: structlog.stdlib.BoundLogger = structlog.get_logger()
"""The one logger. `log.info("case.queued", case_id=...)`; event names are dotted, lower case."""
