"""Which engines run the model, in which order, where their files lie, and where traces go. Does no I/O."""

import urllib.parse
from dataclasses import dataclass

from casework.errors import Defect

DECODERS = ("cpu", "nvimgcodec", "nvimgcodec-cpu")
RUNNERS = ("tensorrt", "tensorrt-rtx", "cuda", "cpu")


@dataclass(frozen=True, slots=True)
class Engine:
    """What computes: the first of `order` that can be opened and reproduces the golden samples serves."""

    order: tuple[str, ...] = ("cpu",)  # tensorrt, tensorrt-rtx, cuda, cpu; any but the first raises ENGINE_FALLBACK
    device: int = 0  # the GPU's number
    twin: str = ""  # folder of the package's half-precision twin, which GPUs run; "" = the package's folder + "-fp16"
    plans: str = ""  # folder of built plans, kept between starts; "" = <storage.root>/plans
    build_missing: bool = True  # a worker builds a plan that is not there (a minute); False: the next runner serves
    max_sides: int = 2  # of one run: plans are made for 1 to so many sides
    decoder: str = "cpu"  # of lossless JPEG 2000 at full size: "nvimgcodec" = on the GPU `device`, where it gives the CPU's pixels bit for bit; "nvimgcodec-cpu" = the same library without a GPU


def check_engine(engine: Engine) -> None:
    """Refuse what could not serve.

    Raises:
        Defect: CONFIG_INVALID.
    """
    unknown = set(engine.order) - set(RUNNERS)
    if unknown or not engine.order or len(set(engine.order)) != len(engine.order):
        raise Defect("CONFIG_INVALID", f"engine.order: some of {', '.join(RUNNERS)}, each once")
    if {"tensorrt", "tensorrt-rtx"} <= set(engine.order):
        raise Defect("CONFIG_INVALID", "engine.order: tensorrt or tensorrt-rtx, not both in one environment")
    if engine.decoder not in DECODERS:
        raise Defect("CONFIG_INVALID", f"engine.decoder: one of {', '.join(DECODERS)}")
    if engine.decoder == "nvimgcodec" and set(engine.order) == {"cpu"}:
        raise Defect(
            "CONFIG_INVALID", "engine.decoder nvimgcodec: engine.order names no GPU runner, so this is no GPU worker"
        )
    if engine.device < 0 or not 1 <= engine.max_sides <= 16:
        raise Defect("CONFIG_INVALID", "engine.device is 0 or more, engine.max_sides 1 to 16")


@dataclass(frozen=True, slots=True)
class Traces:
    """OpenTelemetry traces: stages of a case with times, no patient data. Off unless a collector is named."""

    url: str = ""  # OTLP over HTTP, e.g. http://127.0.0.1:4318/v1/traces; "" = off


def check_traces(traces: Traces) -> None:
    """Refuse an address that is none, or that holds a password.

    Raises:
        Defect: CONFIG_INVALID.
    """
    if not traces.url:
        return
    parts = urllib.parse.urlsplit(traces.url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.password or parts.query:
        raise Defect("CONFIG_INVALID", "traces.url: http(s)://host:port/v1/traces, without a password")
