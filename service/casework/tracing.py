"""OpenTelemetry traces, off by default: what was done for a case, in which process and for how long. Owns OpenTelemetry.

All spans of a case share a trace: its id is a digest of the case's id, so processes on different hosts need not pass anything on.
A span says its name, the case's id, a code and a count, nothing else: no name, number or word of a patient can get into one.
Spans are sent in the background and dropped when nobody takes them; nothing waits for it.
"""

import hashlib
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from casework.errors import Defect

_ATTRIBUTES = frozenset({"code", "count", "destination", "attempt", "modality"})
_tracer: Any = None
_provider: Any = None


def start_tracing(url: str, process: str) -> None:
    """Send spans to an OTLP/HTTP collector from now on; "" keeps tracing off.

    Raises:
        Defect: CONFIG_INVALID, the packages are missing.
    """
    global _tracer, _provider  # noqa: PLW0603 - one for each process, as the metrics
    if not url:
        return
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ModuleNotFoundError as error:
        raise Defect("CONFIG_INVALID", "traces.url needs the packages of casework[traces]") from error
    _provider = TracerProvider(resource=Resource({"service.name": "casework", "service.instance": process}))
    _provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=url, timeout=5)))
    _tracer = _provider.get_tracer("casework")


@contextmanager
def closing_traces() -> Iterator[None]:
    """Send what is left when the block ends, for a few seconds at most."""
    try:
        yield
    finally:
        stop_tracing()


def stop_tracing() -> None:
    """Send what is left, and keep tracing off."""
    global _tracer, _provider
    provider, _tracer, _provider = _provider, None, None
    if provider is not None:
        provider.shutdown()


def note_span(name: str, case_id: str, seconds: float, **attributes: object) -> None:
    """One thing that was done for a case and has ended just now."""
    if _tracer is None or not case_id:
        return
    from opentelemetry import trace

    ended = time.time_ns()
    began = ended - int(max(0.0, seconds) * 1e9)
    span = _tracer.start_span(
        name, context=trace.set_span_in_context(_root(case_id)), start_time=began,
        attributes={"case_id": case_id, **{k: v for k, v in attributes.items() if k in _ATTRIBUTES and v not in ("", None)}},
    )  # fmt: skip
    span.end(end_time=ended)


def note_stages(case_id: str, stages: Mapping[str, float]) -> None:
    """The stages of an analysis that has ended just now, one after the other."""
    if _tracer is None:
        return
    from opentelemetry import trace

    at = time.time_ns() - int(sum(stages.values()) * 1e9)
    for stage, seconds in stages.items():
        span = _tracer.start_span(
            _SPANS.get(stage, stage), context=trace.set_span_in_context(_root(case_id)), start_time=at,
            attributes={"case_id": case_id, "stage": stage},
        )  # fmt: skip
        at += int(seconds * 1e9)
        span.end(end_time=at)


_SPANS = {
    "plan": "prepare",
    "decode": "prepare",
    "gate": "prepare",
    "tensor": "prepare",
    "network": "infer",
    "check": "render",
}


def _root(case_id: str) -> Any:
    """The remote parent that all spans of a case have."""
    from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags

    digest = hashlib.sha256(b"casework trace " + case_id.encode()).digest()
    context = SpanContext(
        trace_id=int.from_bytes(digest[:16], "big"), span_id=int.from_bytes(digest[16:24], "big"), is_remote=True,
        trace_flags=TraceFlags(TraceFlags.SAMPLED),
    )  # fmt: skip
    return NonRecordingSpan(context)
