"""Frozen settings with units, from one TOML file and the environment. Reads files only in `load`.

Precedence: environment (CASEWORK_<SECTION>_<KEY>, e.g. CASEWORK_DICOM_PORT) over file over default. A secret is always
the path of a file (`*_file`), never a value. docs/configuration.md is compared with these classes by a test.
"""

import os
import tomllib
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

from casework import config_checks, hours
from casework.checks import severities
from casework.config_engine import Engine, Traces, check_engine, check_traces
from casework.config_queue import Queue, check_queue, with_password
from casework.config_retention import Retention, check_retention
from casework.config_security import Oidc, Peer, Signing, Tls, check_doors, check_oidc, check_signing
from casework.errors import Defect

_SYSTEM_FOLDERS = frozenset(
    "/ /bin /boot /dev /etc /home /lib /media /mnt /opt /proc /root /run /sbin /srv /sys /tmp /usr /var /var/lib".split()  # noqa: SIM905 - a list of quoted words reads worse
)


@dataclass(frozen=True, slots=True)
class Dicom:
    """The C-STORE listener and its guard."""

    ae_title: str = "CMAN"
    host: str = "127.0.0.1"
    port: int = 11112
    peer: tuple[Peer, ...] = ()
    any_loopback_peer: bool = True  # without rows in `peer`, accept any AE title from 127.0.0.0/8
    max_associations: int = 50
    max_associations_per_peer: int = 25  # a listed title at one address; without [[dicom.peer]] an address
    association_deadline_s: float = 10.0  # from TCP accept to a complete A-ASSOCIATE-RQ
    pdu_deadline_s: float = 20.0  # absolute, for one whole PDU
    idle_s: float = 120.0  # between PDUs
    max_associate_pdu_bytes: int = 1 << 20
    max_data_pdu_bytes: int = 256 << 10
    max_instance_bytes: int = 4 << 30
    max_frames_bytes: int = 4 << 30  # decoded size by header: rows x columns x frames x samples x bytes


@dataclass(frozen=True, slots=True)
class Http:
    """The REST API and the status page."""

    host: str = "127.0.0.1"
    port: int = 8000
    keys_file: str = ""  # "" = <storage.root>/secrets/api-keys.json, made at first start with one admin key
    max_body_bytes: int = 4 << 30
    tls_by_proxy: bool = False  # a proxy in front ends TLS: plain HTTP beyond loopback is then meant
    allowed_hosts: tuple[str, ...] = ()  # names in the Host header; none = on loopback its own names, elsewhere any


@dataclass(frozen=True, slots=True)
class Storage:
    """Where the durable things live. All folders of the spool must be on one local file system."""

    root: str = "var"  # relative to the working directory
    ledger_url: str = ""  # "" = SQLite in <storage.root>/ledger/ledger.db; or postgresql+psycopg://user@host/name
    ledger_password_file: str = ""  # the password of ledger_url's user, never in the URL itself
    watermark: float = 0.75  # refuse new associations above this share of the disk
    hard_watermark: float = 0.90  # refuse instances above this
    reserve_bytes: int = 5 << 30  # and below this much free space
    prepared_bytes: int = 8 << 30  # bound of the cache of prepared images
    fsync: bool = True  # False only in the bench's negative control


@dataclass(frozen=True, slots=True)
class Assembly:
    """When a case is complete."""

    window_days: int = 90
    quiet_s: float = 60.0  # without an expected count: this long after the last image
    settle_s: float = 1.0  # with the expected count reached: this long after the last image
    poll_s: float = 0.5
    give_up_s: float = 900.0  # a case that is short of the PACS's count runs after this with what is there


OBJECTS = (  # kinds of result objects that a profile may list; notes of what was not done, or withdrawn, go everywhere
    "sr",  # Comprehensive 3D SR (IHE AIR), one a study
    "sr-comprehensive",  # the same report as Comprehensive SR, for a peer that refuses the class above
    "capture",  # heat-maps as Secondary Capture, one an analysed image
    "cine",  # the analysed frames of an ultrasound cine as Multi-frame True Colour Secondary Capture
    "slices",  # MR slices through activated regions with their heat, as the same class
    "parametric-map",  # MR activation on the source slices, 32-bit float
    "segmentation",  # activated regions of sides that are positive or undetermined, on the slices of an MRI
    "segmentation-planar",  # the same on single mammograms and ultrasound images
    "outline",  # the same regions as Grayscale Softcopy Presentation State
    "key-object",  # the images that matter
)

PROFILES: Mapping[str, tuple[str, ...]] = {  # need no table; one of the same name replaces it
    "standard": ("sr", "capture"),
    "mammography-workstation": ("sr", "capture", "outline", "key-object"),
    "ohif": ("sr", "capture", "cine", "slices"),  # what OHIF shows of any study (docs/viewers.md)
    "ohif-phases": ("sr", "capture", "cine", "slices", "segmentation", "parametric-map"),  # a series a phase of MRI
    "legacy": ("capture",),
    "full": tuple(o for o in OBJECTS if o != "sr-comprehensive"),
}


@dataclass(frozen=True, slots=True)
class Profile:
    """Which result objects a kind of destination gets. Built in: standard, mammography-workstation, ohif, ohif-phases, legacy, full."""

    name: str
    objects: tuple[str, ...]  # of OBJECTS above


@dataclass(frozen=True, slots=True)
class Policy:
    """Which kinds of image a complete case still waits for, and how long. Nothing is waited for unless it is asked for here.

    A missing kind is waited for as long as the longest of the times that apply: its own, and the one for how many of the
    wanted kinds are there. A STAT case and one that a person or program asked for wait for none. Examples: docs/pacs.md.
    """

    wanted: tuple[str, ...] = ("MG", "MR", "US")  # kinds that a case may wait for; commas in the environment
    wait_mg_h: float = 0.0  # hours for a missing mammography, from when the rest was complete
    wait_mr_h: float = 0.0  # hours for a missing MRI
    wait_us_h: float = 0.0  # hours for a missing ultrasound
    wait_with_one_h: float = 0.0  # hours while only one of the wanted kinds is there
    wait_with_two_h: float = 0.0  # hours while two of the wanted kinds are there
    stat_quiet_s: float = 10.0  # quiet time of a STAT case, where that is shorter than assembly.quiet_s
    accept_corrections: bool = False  # other bytes under a known UID are a new revision: same patient, study, side

    def wait_h(self, missing: str, present: int) -> float:
        """Hours that a case with `present` of the wanted kinds waits for one that is missing."""
        own = {"MG": self.wait_mg_h, "MR": self.wait_mr_h, "US": self.wait_us_h}[missing]
        return max(own, {1: self.wait_with_one_h, 2: self.wait_with_two_h}.get(present, 0.0))


@dataclass(frozen=True, slots=True)
class Destination:
    """One place that gets results, or is asked for expected counts."""

    name: str
    kind: str = "dimse"  # "dimse" | "stow"
    ae_title: str = ""
    host: str = "127.0.0.1"
    port: int = 104
    url: str = ""  # DICOMweb root, e.g. https://pacs/dicom-web
    token_file: str = ""
    tls: bool = False  # kind dimse: TLS on `port`
    tls_name: str = ""  # the name in its certificate; "" = host
    ca_file: str = ""  # PEM: the only authorities believed for it; "" = the system's
    certificate_file: str = ""  # ours, for a destination that asks who calls
    key_file: str = ""
    send: bool = True
    query: bool = False  # ask it how many instances the patient has
    proof: str = (
        ""  # that it holds a result: "commitment" | "query" | "none"; "" = query where `query` is on, else none
    )
    commitment_ae_title: str = ""  # where storage commitment is asked for; "" and 0 = where the results go
    commitment_host: str = ""
    commitment_port: int = 0
    timeout_s: float = 30.0
    retrieve: str = (
        ""  # how other studies are fetched from it: "wado" (kind stow), "move" or "get" (kind dimse); "" = not at all
    )
    profile: str = "standard"  # which objects it gets: a built-in profile or one of [[profile]]

    @property
    def proves(self) -> str:
        """How it proves that it holds what it stored: "commitment", "query", or "" (its answer to the store is all)."""
        chosen = self.proof or ("query" if self.query else "none")
        return "" if chosen == "none" else chosen

    @property
    def committer(self) -> "Destination":
        """The peer that is asked for storage commitment."""
        return replace(
            self,
            ae_title=self.commitment_ae_title or self.ae_title,
            host=self.commitment_host or self.host,
            port=self.commitment_port or self.port,
        )


@dataclass(frozen=True, slots=True)
class Fetch:
    """Other studies of a case's patient, fetched from every [[destination]] that has `retrieve`."""

    siblings: bool = True  # studies of modalities that the case lacks, within assembly.window_days
    priors: int = (
        0  # for each modality that is here, so many older studies: kept as context, never analysed with the case
    )
    prior_years: int = 5
    breast_words: tuple[str, ...] = (
        "breast",
        "mamm",
        "brust",
        "sein",
        "axill",
        "乳",
        "腋",
    )  # an MR or US study has to name one in body part or description; [] = any study
    max_images: int = 5000  # a study with more is not fetched
    max_bytes: int = 16 << 30  # of one study
    studies_per_hour: int = 60  # for each PACS; one study at a time
    images_per_s: float = 50.0  # by C-MOVE on average over a series
    quiet_hours: tuple[str, ...] = ()  # local time, e.g. ["07:30-12:00"]: nothing is fetched unless a person asks
    time_zone: str = ""  # of quiet_hours, e.g. "Asia/Shanghai"; "" = the machine's
    again_s: float = 1800.0  # a PACS is asked again for a case that still waits
    hold_s: float = 120.0  # a case waits so long at most, from its first image, for a fetch that is under way
    max_attempts: int = 5
    retry_first_s: float = 30.0
    retry_max_s: float = 1800.0


@dataclass(frozen=True, slots=True)
class Gate:
    """How severe the findings of the input gate are: docs/gate.md has the checks and their defaults."""

    severity: tuple[
        str, ...
    ] = ()  # e.g. ["VIEW_MISSING=stop", "IMPLANT_PRESENT=warn"]; conflicts of side or patient always stop


@dataclass(frozen=True, slots=True)
class Webhook:
    """One program that is told of case states and results (docs/webhooks.md); nothing is sent anywhere else."""

    name: str
    url: str  # https://host/path; no redirects are followed
    key_file: str = ""  # whsec_<base64 of 24 to 64 random bytes>
    previous_key_file: str = ""  # while keys are changed: both sign
    networks: tuple[str, ...] = ()  # private, loopback or link-local networks that the host may be in; otherwise none
    events: tuple[str, ...] = ("case.state", "case.results")
    ca_file: str = ""  # PEM; "" = the system's authorities
    timeout_s: float = 10.0


@dataclass(frozen=True, slots=True)
class Work:
    """Workers, leases and retries."""

    model: str = "models/cman"  # relative to the working directory, or else to the source checkout
    threads: int = 0  # 0 = number of cores
    lease_s: float = 60.0  # at most 3600: a lease that ends later is taken for one of before the clock went back
    heartbeat_s: float = 20.0
    max_attempts: int = 3
    decode_processes: int = 2
    decode_memory_bytes: int = 3 << 30
    decode_cpu_s: int = 60
    prepare_ahead: bool = True
    report_process: bool = True  # reports are made beside the worker: faster on two cores, 160 MB
    queue_alarm_s: float = 900.0  # a case that waits longer for a worker raises the alarm QUEUE_STALLED
    retry_first_s: float = 30.0
    retry_max_s: float = 1800.0
    retry_horizon_s: float = 72 * 3600.0
    proof_again_s: float = 300.0  # longest time between two looks; how long a commitment report is waited for
    proof_wait_s: float = 3600.0  # a destination that has not proved a result by then gets the same bytes again
    proof_resends: int = 2  # after that many times a person has to look
    proof_alarm_s: float = 900.0  # stored without proof for longer raises PROOF_LATE


@dataclass(frozen=True, slots=True)
class Report:
    """Words and identity in results."""

    manufacturer: str = "casework"
    institution: str = ""
    language: str = "en"  # "en" | "zh"
    serial_number: str = "CASEWORK-1"
    pdf_font: str = ""  # a TrueType font with Chinese characters; summaries are offered as PDF too. "" = they are not


@dataclass(frozen=True, slots=True)
class Metrics:
    """A port for Prometheus in each door that runs alone; under `casework serve` ask the API's /v1/metrics."""

    host: str = "127.0.0.1"
    port: int = 0  # 0 = none; it needs no key and shows no patient data


@dataclass(frozen=True, slots=True)
class Settings:
    """All settings."""

    dicom: Dicom = field(default_factory=Dicom)
    http: Http = field(default_factory=Http)
    storage: Storage = field(default_factory=Storage)
    assembly: Assembly = field(default_factory=Assembly)
    policy: Policy = field(default_factory=Policy)
    gate: Gate = field(default_factory=Gate)
    work: Work = field(default_factory=Work)
    report: Report = field(default_factory=Report)
    metrics: Metrics = field(default_factory=Metrics)
    fetch: Fetch = field(default_factory=Fetch)
    queue: Queue = field(default_factory=Queue)
    tls: Tls = field(default_factory=Tls)
    oidc: Oidc = field(default_factory=Oidc)
    signing: Signing = field(default_factory=Signing)
    retention: Retention = field(default_factory=Retention)
    engine: Engine = field(default_factory=Engine)
    traces: Traces = field(default_factory=Traces)
    destination: tuple[Destination, ...] = ()
    webhook: tuple[Webhook, ...] = ()
    profile: tuple[Profile, ...] = ()

    @property
    def profiles(self) -> dict[str, frozenset[str]]:
        """The objects of every profile, by its name."""
        return {name: frozenset(objects) for name, objects in PROFILES.items()} | {
            p.name: frozenset(p.objects) for p in self.profile
        }

    @property
    def wanted(self) -> frozenset[str]:
        """The kinds of objects that some destination gets; what none asks for is not made."""
        return frozenset(o for d in self.destination if d.send for o in self.profiles[d.profile])

    @property
    def withheld(self) -> dict[str, frozenset[str]]:
        """By destination: the kinds that its profile leaves out; of what says that nothing was analysed, the other form."""
        return {
            d.name: frozenset(OBJECTS) - self.profiles[d.profile]
            | {"not-performed" if self._without_reports(d) else "not-performed-page"}
            for d in self.destination
        }

    @property
    def pages(self) -> bool:
        """Whether some destination gets pictures only, so that even "AI not performed" has to be one."""
        return any(d.send and self._without_reports(d) for d in self.destination)

    def _without_reports(self, destination: "Destination") -> bool:
        return not {"sr", "sr-comprehensive"} & self.profiles[destination.profile]

    @property
    def root(self) -> Path:
        """The storage root as an absolute path."""
        return Path(self.storage.root).resolve()

    @property
    def model_folder(self) -> Path:
        """The model package as an absolute path."""
        bases = (Path.cwd(), Path(__file__).resolve().parents[2])
        return next((b / self.work.model for b in bases if (b / self.work.model).is_dir()), bases[0] / self.work.model)

    @property
    def ledger_url(self) -> str:
        """The ledger's SQLAlchemy URL, with the password where there is one: never print or log it.

        Raises:
            Defect: CONFIG_INVALID, the password file can't be read.
        """
        storage = self.storage
        if not storage.ledger_url:
            return f"sqlite:///{self.root / 'ledger' / 'ledger.db'}"
        return with_password(storage.ledger_url, storage.ledger_password_file, "storage.ledger_password_file")

    @property
    def queue_url(self) -> str:
        """Redis's URL, with the password where there is one: never print or log it.

        Raises:
            Defect: CONFIG_INVALID, the password file can't be read.
        """
        return with_password(self.queue.url, self.queue.password_file, "queue.password_file")


def load(path: Path | None = None, environ: Mapping[str, str] | None = None) -> Settings:
    """Read the settings. `path` None means CASEWORK_CONFIG, or only defaults and environment.

    Raises:
        Defect: CONFIG_INVALID, naming the setting.
    """
    environ = os.environ if environ is None else environ
    if path is None and environ.get("CASEWORK_CONFIG"):
        path = Path(environ["CASEWORK_CONFIG"])
    try:
        document = tomllib.loads(path.read_text("utf-8")) if path else {}
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise Defect("CONFIG_INVALID", f"{path}: {error}") from error
    for section in fields(Settings):
        if not is_dataclass(section.default_factory):
            continue
        for setting in fields(section.default_factory):
            value = environ.get(f"CASEWORK_{section.name}_{setting.name}".upper())
            if value is not None:
                document.setdefault(section.name, {})[setting.name] = value
    settings = typing.cast(Settings, _build(Settings, document, ""))
    _check(settings)
    _check_profiles(settings)
    config_checks.check_work(settings.work)
    severities(settings.gate.severity)
    config_checks.check_policy(settings.policy, settings.assembly)
    _check_fetch(settings)
    check_queue(settings.queue)
    check_oidc(settings.oidc)
    check_signing(settings.signing)
    check_retention(settings)
    check_engine(settings.engine)
    check_traces(settings.traces)
    return settings


def _build(kind: Any, value: Any, where: str) -> Any:
    """Turn parsed TOML (or environment text) into `kind`, naming `where` in errors."""
    if is_dataclass(kind) and isinstance(kind, type):
        if not isinstance(value, Mapping):
            raise Defect("CONFIG_INVALID", f"{where}: expected a table")
        hints = typing.get_type_hints(kind)
        unknown = set(value) - set(hints)
        if unknown:
            raise Defect("CONFIG_INVALID", f"{where or 'file'}: unknown setting {sorted(unknown)[0]!r}")
        try:
            return kind(**{k: _build(hints[k], v, f"{where}.{k}".lstrip(".")) for k, v in value.items()})
        except TypeError as error:
            raise Defect("CONFIG_INVALID", f"{where}: {error}") from error
    if typing.get_origin(kind) in (tuple, types.GenericAlias):
        if isinstance(value, str) and typing.get_args(kind)[0] is str:  # from the environment
            value = [item.strip() for item in value.split(",") if item.strip()]
        if not isinstance(value, list):
            raise Defect("CONFIG_INVALID", f"{where}: expected a list")
        return tuple(_build(typing.get_args(kind)[0], item, f"{where}[{n}]") for n, item in enumerate(value))
    if kind is bool and isinstance(value, str):
        if value.lower() not in ("true", "false", "1", "0"):
            raise Defect("CONFIG_INVALID", f"{where}: expected true or false")
        return value.lower() in ("true", "1")
    if (kind is bool) != isinstance(value, bool):
        raise Defect("CONFIG_INVALID", f"{where}: expected {kind.__name__}")
    try:
        return kind(value)
    except (TypeError, ValueError) as error:
        raise Defect("CONFIG_INVALID", f"{where}: expected {kind.__name__}") from error


def _check(settings: Settings) -> None:
    """Refuse combinations that would lose data or open a door."""
    if not 0 < settings.storage.watermark <= settings.storage.hard_watermark < 1:
        raise Defect("CONFIG_INVALID", "storage.watermark must be below storage.hard_watermark, both in 0..1")
    if str(settings.root) in _SYSTEM_FOLDERS:  # "var" from the working directory / is /var
        raise Defect("CONFIG_INVALID", f"storage.root: {settings.root} belongs to the system; name a folder of its own")
    config_checks.check_destinations(settings.destination)
    check_doors(settings)
    for hook in settings.webhook:
        config_checks.check_webhook(hook)
    if len({hook.name for hook in settings.webhook}) != len(settings.webhook):
        raise Defect("CONFIG_INVALID", "webhook: names must differ")


def _check_profiles(settings: Settings) -> None:
    """Refuse a profile that says nothing, or says the same twice in two classes."""
    names = [p.name for p in settings.profile]
    if len(names) != len(set(names)):
        raise Defect("CONFIG_INVALID", "profile: names must differ")
    for p in settings.profile:
        unknown = sorted(set(p.objects) - set(OBJECTS))
        if unknown:
            raise Defect("CONFIG_INVALID", f"profile {p.name}: no object {unknown[0]!r}; one of {', '.join(OBJECTS)}")
        if not {"sr", "sr-comprehensive", "capture"} & set(p.objects):
            raise Defect("CONFIG_INVALID", f"profile {p.name}: a report or captures are needed to say anything")
        if {"sr", "sr-comprehensive"} <= set(p.objects):
            raise Defect("CONFIG_INVALID", f"profile {p.name}: sr or sr-comprehensive, a viewer would show both")
    for d in settings.destination:
        if d.profile not in settings.profiles:
            raise Defect("CONFIG_INVALID", f"destination {d.name}: no profile {d.profile!r}")


_RETRIEVE = {"dimse": ("", "move", "get"), "stow": ("", "wado")}


def _check_fetch(settings: Settings) -> None:
    """Refuse a fetch that could never work, or one that would flood a PACS."""
    fetch = settings.fetch
    for d in settings.destination:
        if d.retrieve not in _RETRIEVE[d.kind]:
            raise Defect("CONFIG_INVALID", f"destination {d.name}: retrieve must be wado (stow), move or get (dimse)")
    try:
        for window in fetch.quiet_hours:
            hours.parse(window)
        hours.zone_of(fetch.time_zone)
    except ValueError as error:
        raise Defect("CONFIG_INVALID", f"fetch.quiet_hours, fetch.time_zone: {error}") from error
    if not (0 < fetch.images_per_s <= 10_000 and 0 < fetch.studies_per_hour <= 10_000):
        raise Defect("CONFIG_INVALID", "fetch.images_per_s and fetch.studies_per_hour: above 0, at most 10000")
    if not 0 < fetch.max_images <= 50_000:
        raise Defect("CONFIG_INVALID", "fetch.max_images: 1 to 50000")
    if fetch.again_s < 60 or fetch.retry_first_s <= 0 or not fetch.retry_first_s <= fetch.retry_max_s <= 86400:
        raise Defect("CONFIG_INVALID", "fetch.again_s: 60 or more; retry_first_s up to retry_max_s up to 86400")
