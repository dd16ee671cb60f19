"""`casework doctor` and the deep half of `verify-ledger`: checks a person would do first, each in one line of words."""

import ctypes
import hashlib
import json
import os
import shutil
import socket
import ssl
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from http.client import HTTPException
from pathlib import Path

from casework import courier
from casework.config import Destination, Settings
from casework.dicom.answers import Answer
from casework.dicom.retrieve import offers
from casework.dicom.scu import echo, offers_commitment
from casework.errors import CaseworkError
from casework.ledger import Ledger
from casework.reasons import reason
from casework.tls import ServerTls, client_context, expires

_DIRECT = urllib.request.build_opener(
    urllib.request.ProxyHandler({})
)  # as the service does: no proxy of the environment
CERTIFICATE_DAYS = 30  # an earlier end is worth a warning
TIME_ERROR = 5  # adjtimex(2): the clock is not synchronised


@dataclass(frozen=True, slots=True)
class Check:
    """One finding: mark is "ok", "warn" or "fail"."""

    name: str
    mark: str
    words: str


def examine(settings: Settings) -> Iterator[Check]:
    """Every check in the order in which a person would look, none of which changes anything."""
    checks: tuple[Callable[[Settings], Iterator[Check]], ...] = (
        _disk,
        _ledger,
        _ports,
        _certificate,
        _decoders,
        _model,
        _peers,
        _webhooks,
        _fetch,
        _clock,
    )
    for check in checks:
        yield from _guarded(check, settings)


def _guarded(check: Callable[[Settings], Iterator[Check]], settings: Settings) -> Iterator[Check]:
    """One check; one that can't be made is a finding and doesn't hold up the others."""
    name = check.__name__.strip("_")
    try:
        yield from check(settings)
    except CaseworkError as error:
        yield Check(name, "fail", f"{error}. {error.reason.next_en}")
    except OSError as error:
        yield Check(name, "fail", str(error))
    except (HTTPException, ValueError) as error:  # something else speaks there
        yield Check(name, "fail", f"an answer that can't be read: {type(error).__name__}")


def _disk(settings: Settings) -> Iterator[Check]:
    root = settings.root
    if not root.is_dir():
        yield Check("disk", "warn", f"{root} does not exist yet; casework serve makes it")
        return
    mode = root.stat().st_mode & 0o777
    if mode & 0o077:
        yield Check("disk", "fail", f"{root} is open to others (mode {mode:o}): chmod 700")
    with tempfile.NamedTemporaryFile(dir=root) as file:
        file.write(b"casework")
        file.flush()
        os.fsync(file.fileno())
    usage = shutil.disk_usage(root)
    share = usage.used / (usage.used + usage.free)  # as the spool counts, without what is reserved for root
    storage = settings.storage
    low = share > storage.watermark or usage.free < storage.reserve_bytes
    words = f"{share:.0%} used, {usage.free / 2**30:.1f} GiB free (watermark {storage.watermark:.0%}, reserve {storage.reserve_bytes / 2**30:.0f} GiB)"
    yield Check("disk", "fail" if low else "ok", words + ("; new associations are refused" if low else ""))
    if not storage.fsync:
        yield Check("disk", "fail", "storage.fsync is off: acknowledged images can be lost")


def _ledger(settings: Settings) -> Iterator[Check]:
    url = settings.ledger_url
    if url.startswith("sqlite") and not Path(url.removeprefix("sqlite:///")).exists():
        yield Check("ledger", "warn", "no ledger yet; casework serve makes it")
        return
    ledger = Ledger.open(url)
    try:
        info = ledger.info()
        yield Check(
            "ledger",
            "ok",
            f"{info.dialect} {info.version}, schema {info.schema}" + "".join(f"; {n}" for n in info.notes),
        )
        audit = ledger.read.verify_audit()
        yield Check(
            "audit",
            "ok" if audit.ok else "fail",
            f"{audit.rows} rows" + ("" if audit.ok else f", first bad row {audit.first_bad}"),
        )
        metrics = ledger.read.metrics()
        attention = metrics.cases.get("needs_attention", 0)
        yield Check(
            "cases",
            "warn" if attention else "ok",
            f"{sum(metrics.cases.values())} in all, {attention} need attention, {metrics.queue_depth} queued",
        )
    finally:
        ledger.close()


def _ports(settings: Settings) -> Iterator[Check]:
    dicom, http = settings.dicom, settings.http
    if not settings.tls.plain_dicom:
        there = _answers(dicom.host, settings.tls.dicom_port)
        words = f"{dicom.host}:{settings.tls.dicom_port} (TLS only) " + ("listens" if there else "does not listen")
        yield Check("listener", "ok" if there else "warn", words)
    elif _answers(dicom.host, dicom.port):
        node = Destination("self", ae_title=dicom.ae_title, host=dicom.host, port=dicom.port, timeout_s=5)
        good = echo(node, "DOCTOR").answer is Answer.STORED
        # With an allow-list the doctor's own title may be refused, which is as it should be.
        yield Check(
            "listener",
            "ok" if good else "warn",
            f"{dicom.host}:{dicom.port} " + ("answers C-ECHO" if good else "listens; C-ECHO from DOCTOR is refused"),
        )
    else:
        yield Check("listener", "warn", f"nothing listens on {dicom.host}:{dicom.port}; is casework serve running?")
    if not _answers(http.host, http.port):
        yield Check("api", "warn", f"nothing listens on {http.host}:{http.port}")
        return
    host = f"[{http.host}]" if ":" in http.host else http.host
    secure = settings.tls.https
    url = f"{'https' if secure else 'http'}://{host}:{http.port}/v1/health/ready"
    try:
        with _opener(settings).open(url, timeout=5) as answer:
            yield Check("api", "ok", f"ready: {json.load(answer).get('status', '')}")
    except urllib.error.HTTPError as error:
        yield Check("api", "fail", f"{url} answers {error.code}")


def _opener(settings: Settings) -> urllib.request.OpenerDirector:
    """Asks our own API; over HTTPS its certificate is only looked at, by `_certificate`."""
    if not settings.tls.https:
        return _DIRECT
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context))


def _certificate(settings: Settings) -> Iterator[Check]:
    """Whether the certificate can be used, and for how long."""
    tls = settings.tls
    if not (tls.dicom or tls.https):
        return
    peers = (tls.client_ca_file, tls.client_crl_file) if tls.dicom else ()
    ServerTls(tls.certificate_file, tls.key_file, *peers)
    until = expires(tls.certificate_file)
    days = (until - datetime.now(UTC)).days
    mark = "ok" if days >= CERTIFICATE_DAYS else "warn" if days >= 0 else "fail"
    yield Check("certificate", mark, f"valid until {until:%Y-%m-%d}, {days} days")


def _answers(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=3).close()
    except OSError:
        return False
    return True


def _decoders(_: Settings) -> Iterator[Check]:
    from pydicom.uid import UID

    from casework.preprocess.decode import TRANSFER_SYNTAXES

    names = sorted(UID(uid).name for uid in TRANSFER_SYNTAXES)
    yield Check("decoders", "ok", f"{len(names)} transfer syntaxes: " + ", ".join(names))


def _model(settings: Settings) -> Iterator[Check]:
    from casework.engine.choose import open_engine
    from casework.entrypoints.engines import open_model, place_of

    package = open_model(settings)
    passport = open_engine(package, settings.engine, place_of(settings)).passport
    spec = package.spec
    what = f"{spec.name} {spec.version} ({spec.precision}), manifest {package.sha256[:16]}; serves by {passport.line}"
    over = ", ".join(f"{name} ({code})" for name, code in passport.passed_over)
    yield Check("model", "warn" if over else "ok", f"{what}; passed over: {over}" if over else what)
    words = f"signed by {package.signed_by}" if package.signed_by else f"UNSIGNED. {reason('MODEL_UNSIGNED').next_en}"
    yield Check("signature", "ok" if package.signed_by else "warn", words)


def _peers(settings: Settings) -> Iterator[Check]:
    if not settings.destination:
        yield Check("peers", "warn", "no [[destination]] is configured: results stay here")
    for destination in settings.destination:
        if destination.kind == "stow":
            reached = _reaches(destination)
        else:
            reached = echo(destination, settings.dicom.ae_title).answer is Answer.STORED
        yield Check(
            f"peer {destination.name}",
            "ok" if reached else "fail",
            "answers" if reached else "does not answer: check AE title, host, port, and that it knows ours",
        )
        if (
            reached
            and destination.proves == "commitment"
            and not offers_commitment(destination.committer, settings.dicom.ae_title)
        ):
            words = (
                "does not offer storage commitment: results would be proved by queries; set proof to query or enable it"
            )
            yield Check(f"peer {destination.name}", "warn", words)


def _fetch(settings: Settings) -> Iterator[Check]:
    """Whether each PACS offers what is configured to fetch from it; moves and fetches nothing."""
    for destination in settings.destination:
        if not destination.retrieve:
            continue
        code = offers(destination, settings.dicom.ae_title)
        row = reason(code) if code else None
        words = f"{row.en} {row.next_en}" if row else f"can be asked and offers {destination.retrieve}"
        yield Check(f"fetch {destination.name}", "fail" if code else "ok", f"{code} {words}".strip())


def _webhooks(settings: Settings) -> Iterator[Check]:
    """Each webhook's key, address and certificate, without sending anything."""
    for hook in settings.webhook:
        name = f"webhook {hook.name}"
        try:
            courier.handshake(hook)
        except CaseworkError as error:
            yield Check(name, "fail", f"{error}. {error.reason.next_en}")
            continue
        open_ = [f for f in (hook.key_file, hook.previous_key_file) if f and Path(f).stat().st_mode & 0o077]
        yield Check(name, "warn" if open_ else "ok", "its key is open to others: chmod 600" if open_ else "answers")


def _reaches(destination: Destination) -> bool:
    """Whether anything speaks HTTP there, over TLS that we believe; 401 or 404 is an answer too."""
    opener = _DIRECT
    if destination.url.startswith("https://"):
        https = urllib.request.HTTPSHandler(context=client_context(destination))
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), https)
    elif not destination.url.startswith("http://"):
        return False
    try:
        opener.open(destination.url, timeout=5).close()
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
    return True


def _clock(settings: Settings) -> Iterator[Check]:
    buffer = ctypes.create_string_buffer(512)  # struct timex, modes = 0: only ask
    try:
        state = ctypes.CDLL(None).adjtimex(buffer)
    except AttributeError:
        state = -1
    synchronised = state not in (-1, TIME_ERROR)
    now = datetime.now(UTC)
    words = f"{now:%Y-%m-%d %H:%M:%S} UTC, " + (
        "synchronised" if synchronised else "the kernel does not report it as synchronised"
    )
    yield Check("clock", "ok" if synchronised else "warn", words)
    database = Path(settings.ledger_url.removeprefix("sqlite:///"))
    if database.exists() and database.stat().st_mtime > now.timestamp() + 60:
        yield Check("clock", "fail", "the ledger was written in the future: the clock went back")


def verify_objects(settings: Settings, ledger: Ledger) -> int:
    """Read every stored object that the ledger knows and compare its digest; print each bad one; return their number."""
    from casework.spool import Spool

    spool = Spool(settings.root)
    bad = checked = 0
    for name, sha256 in _recorded(ledger):
        checked += 1
        digest = hashlib.sha256()
        try:
            with spool.open(sha256) as file:
                while block := file.read(1 << 20):
                    digest.update(block)
            problem = "" if digest.hexdigest() == sha256 else "changed"
        except OSError:
            problem = "missing"
        if problem:
            print(f"  {problem}: {name}")  # noqa: T201 - a command's answer
            bad += 1
    print(f"objects: {checked} read, {bad} bad")  # noqa: T201 - a command's answer
    return bad


def _recorded(ledger: Ledger) -> Iterator[tuple[str, str]]:
    """What the ledger says is stored, images and results: a name for people, and the digest."""
    after = 0
    while instances := ledger.read.instances(after, 500):
        yield from ((f"instance {row.id}", row.sha256) for row in instances)
        after = instances[-1].id
    after = 0
    while results := ledger.read.artefacts(after, 500):
        yield from ((f"result {row.id}", row.artefact.sha256) for row in results)
        after = results[-1].id
