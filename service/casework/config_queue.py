"""How workers learn that a job waits: the settings of the queue, and which of them are refused. Does no I/O."""

import urllib.parse
from dataclasses import dataclass
from pathlib import Path

from casework.errors import Defect


@dataclass(frozen=True, slots=True)
class Queue:
    """How workers learn that a job waits. The ledger is the truth with either kind; Redis only rings."""

    kind: str = "ledger"  # "ledger": workers ask the ledger | "celery": Redis rings, for workers on many hosts
    url: str = ""  # redis://user@host:6379/0 or rediss://...; never with the password
    password_file: str = ""
    prefix: str = "casework:"  # of every key in Redis
    repeat_s: float = 20.0  # a job that still waits after this is published again where messages are missing; 15 to 30
    window: int = 1000  # jobs of one lane that are published ahead
    time_limit_s: int = 900  # a worker's process is ended after this long with one case
    soft_limit_before_s: int = 60  # so long before, the case is ended with a reason
    visibility_s: int = 3600  # a message of a worker that died comes back after this; above twice time_limit_s
    max_memory_bytes: int = 8 << 30  # a worker's process that has grown beyond it is replaced after its case
    any_redis_user: bool = False  # true accepts a Redis user who may do more than ring: for trying things out


def check_queue(queue: Queue) -> None:
    """Refuse a queue that could give out one job twice at a time, or wait for what never comes."""
    if queue.kind not in ("ledger", "celery"):
        raise Defect("CONFIG_INVALID", "queue.kind: ledger or celery")
    if queue.kind == "ledger":
        return
    parts = urllib.parse.urlsplit(queue.url)
    if parts.scheme not in ("redis", "rediss") or not parts.hostname:
        raise Defect("CONFIG_INVALID", "queue.url: redis://user@host:port/0 or rediss://...")
    if parts.password is not None:
        raise Defect("CONFIG_INVALID", "queue.url: without the password; queue.password_file names its file")
    if not 0 < queue.soft_limit_before_s < queue.time_limit_s:
        raise Defect("CONFIG_INVALID", "queue.soft_limit_before_s must be above 0 and below queue.time_limit_s")
    if queue.visibility_s <= 2 * queue.time_limit_s:
        raise Defect("CONFIG_INVALID", "queue.visibility_s must be above twice queue.time_limit_s")
    if not 15 <= queue.repeat_s <= 30:
        raise Defect("CONFIG_INVALID", "queue.repeat_s: 15 to 30")
    if not 1 <= queue.window <= 10_000:
        raise Defect("CONFIG_INVALID", "queue.window: 1 to 10000")
    if not queue.prefix.endswith(":") or not queue.prefix[:-1].replace("-", "").isalnum():
        raise Defect("CONFIG_INVALID", "queue.prefix: letters, digits and -, then a colon")


def with_password(url: str, password_file: str, setting: str) -> str:
    """`url` with the password that is in the file; unchanged without one.

    Raises:
        Defect: CONFIG_INVALID, the file can't be read.
    """
    if not password_file:
        return url
    try:
        password = Path(password_file).read_text("utf-8").rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        raise Defect("CONFIG_INVALID", f"{setting}: {type(error).__name__}") from error
    parts = urllib.parse.urlsplit(url)
    place = f"{parts.username or ''}:{urllib.parse.quote(password, safe='')}@{parts.netloc.rpartition('@')[2]}"
    return urllib.parse.urlunsplit(parts._replace(netloc=place))
