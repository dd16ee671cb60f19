"""Reasons, errors, settings and logs keep their promises."""

import io
import json
import pickle
import re
from contextlib import redirect_stderr
from pathlib import Path

import pytest
import structlog

from casework import config, observe, reasons
from casework.errors import CaseworkError, Defect, Refused, Unavailable
from tests import docs


def test_every_reason_has_words_in_both_languages() -> None:
    """A code is upper snake case and carries what happened and what to do, in English and Chinese."""
    for row in reasons.REASONS.values():
        assert re.fullmatch(r"[A-Z][A-Z0-9_]+", row.code)
        assert row.en.endswith(".")
        assert row.next_en.endswith(".")
        assert re.search(r"[\u4e00-\u9fff]", row.zh)
        assert re.search(r"[\u4e00-\u9fff]", row.next_zh)


def test_error_families_share_one_root_and_need_a_known_code() -> None:
    """Each family is under one root, speaks the catalogue's words, and a code that isn't in the catalogue can't be raised."""
    for family in (Refused, Unavailable, Defect):
        error = family("NOT_DICOM", "byte 4")
        assert isinstance(error, CaseworkError)
        assert "not a DICOM" in str(error)
        with pytest.raises(KeyError):
            family("NO_SUCH_CODE")


def test_every_code_in_the_source_is_in_the_catalogue() -> None:
    """No module raises or stores a reason that the catalogue doesn't hold."""
    root = Path(config.__file__).parent
    used = set()
    for path in root.rglob("*.py"):
        used |= set(
            re.findall(r"(?:Refused|Unavailable|Defect|reason)\(\s*\"([A-Z][A-Z0-9_]+)\"", path.read_text("utf-8"))
        )
    assert used
    assert used <= set(reasons.REASONS)


def test_generated_documents_are_current() -> None:
    """The lists of settings, codes and states in docs/ are what the code says."""
    for name, text in (
        ("reasons.md", docs.reason_page()),
        ("configuration.md", docs.configuration_page()),
        ("states.md", docs.states_page()),
        ("why.md", docs.why_page()),
    ):
        assert (docs.DOCS / name).read_text("utf-8") == text


def test_settings_come_from_file_and_environment(tmp_path: Path) -> None:
    """The environment wins over the file, the file over the defaults, and values have their types."""
    path = tmp_path / "casework.toml"
    path.write_text(
        '[dicom]\nport = 1000\nae_title = "A"\n[[dicom.peer]]\nae_title = "PACS"\n[[destination]]\nname = "p"\nae_title = "PACS"\n'
    )
    settings = config.load(path, {"CASEWORK_DICOM_PORT": "2000", "CASEWORK_WORK_PREPARE_AHEAD": "false", "OTHER": "x"})
    assert settings.dicom.port == 2000
    assert settings.dicom.ae_title == "A"
    assert settings.dicom.peer == (config.Peer("PACS"),)
    assert settings.work.prepare_ahead is False
    assert settings.assembly == config.Assembly()
    assert config.load(None, {"CASEWORK_POLICY_WANTED": "MG, US"}).policy.wanted == ("MG", "US")


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[dicom]\nprot = 1", "prot"),
        ("[dicom]\nport = 'x'", "dicom.port"),
        ("[dicom]\nport = true", "dicom.port"),
        ("[dicom]\nhost = '0.0.0.0'", "dicom.host"),
        ("[dicom]\nhost = 'localhost'", "dicom.host"),
        ("[http]\nhost = '0.0.0.0'", "http.keys_file"),
        ("[http]\nhost = '0.0.0.0'\nkeys_file = 'k'", "tls.https, or http.tls_by_proxy"),
        ("[oidc]\nissuer = 'https://a'", "oidc: audience"),
        ("[oidc]\nissuer = 'https://a'\naudience = 'b'\njwks_url = 'http://a/k'", "oidc.jwks_url"),
        ("[oidc]\nissuer='https://a'\naudience='b'\njwks_file='k'\nalgorithms=['HS256']", "oidc.algorithms"),
        ("[oidc]\nissuer='https://a'\naudience='b'\njwks_file='k'\nscopes=['x=root']", "oidc.scopes"),
        ("[storage]\nwatermark = 0.95", "watermark"),
        ("[work]\nheartbeat_s = 50", "heartbeat_s"),
        ("[[destination]]\nname = 'a'", "destination a"),
        ("[[destination]]\nname = 'a'\nkind = 'fax'\nae_title = 'A'", "destination a"),
        ("destination = 1", "destination"),
        ("dicom = 1", "dicom"),
        ("[[destination]]\nname='a'\nae_title='A'\n[[destination]]\nname='a'\nae_title='A'", "differ"),
        ("[[destination]]\nae_title='A'", "name"),
        ("[[dicom.peer]]\nae_title='A'\naddress='x'", "dicom.peer A"),
        ("[work]\nprepare_ahead = 'maybe'", "prepare_ahead"),
        ("[policy]\nwanted = ['CT']", "policy.wanted"),
        ("[policy]\nwanted = []", "policy.wanted"),
        ("[policy]\nwanted = ['MG', 'US']\nwait_mr_h = 24", "policy.wait_mr_h"),
        ("[policy]\nwait_mr_h = 2161", "policy.wait_mr_h"),
        ("[policy]\nwait_us_h = -1", "policy.wait_us_h"),
        ("[policy]\nwait_us_h = nan", "policy.wait_us_h"),
        ("[policy]\nstat_quiet_s = -1", "policy.stat_quiet_s"),
        ("[[profile]]\nname = 'a'\nobjects = ['sr', 'fax']", "profile a: no object 'fax'"),
        ("[[profile]]\nname = 'a'\nobjects = ['key-object']", "profile a: a report or captures"),
        ("[[profile]]\nname = 'a'\nobjects = ['sr', 'sr-comprehensive']", "a viewer would show both"),
        ("[[profile]]\nname='a'\nobjects=['sr']\n[[profile]]\nname='a'\nobjects=['sr']", "profile: names must differ"),
        ("[[destination]]\nname = 'a'\nae_title = 'A'\nprofile = 'nowhere'", "no profile 'nowhere'"),
        ("not toml", "casework.toml"),
    ],
)
def test_a_wrong_setting_is_named(tmp_path: Path, text: str, named: str) -> None:
    """A configuration that can't be used is refused with the setting's name."""
    path = tmp_path / "casework.toml"
    path.write_text(text)
    with pytest.raises(Defect) as caught:
        config.load(path, {})
    assert caught.value.code == "CONFIG_INVALID"
    assert named in caught.value.detail


def test_the_ledgers_password_comes_from_a_file(tmp_path: Path) -> None:
    """A password with any character reaches the URL escaped; one that can't be read is named without its path's content."""
    secret = tmp_path / "password"
    secret.write_text("p@ss/w:rd\n")
    storage = config.Storage(
        ledger_url="postgresql+psycopg://casework@db:5432/casework", ledger_password_file=str(secret)
    )
    assert (
        config.Settings(storage=storage).ledger_url == "postgresql+psycopg://casework:p%40ss%2Fw%3Ard@db:5432/casework"
    )
    secret.unlink()
    with pytest.raises(Defect, match="ledger_password_file"):
        _ = config.Settings(storage=storage).ledger_url


def test_a_log_line_holds_only_allowed_fields() -> None:
    """A field that isn't on the list is dropped, whatever it holds, and one event stays one line."""
    stream = io.StringIO()
    before = observe.DROPPED_FIELDS._value.get()
    try:
        with redirect_stderr(stream):
            observe.setup_logging("test")
            observe.log.info("case.queued", case_id="c1", patient_name="Wang^Xiao", code="a\nb\x1b[31m")
    finally:
        structlog.reset_defaults()
        structlog.contextvars.clear_contextvars()
    lines = stream.getvalue().splitlines()
    assert len(lines) == 1
    assert "Wang" not in lines[0]
    assert "\x1b" not in lines[0]
    record = json.loads(lines[0])
    assert record["case_id"] == "c1"
    assert record["dropped_fields"] == 1
    assert observe.DROPPED_FIELDS._value.get() == before + 1


def test_a_profile_says_which_objects_a_destination_gets(tmp_path: Path) -> None:
    """What is made is what some destination that is sent to asks for; each is spared what its profile leaves out."""
    path = tmp_path / "casework.toml"
    path.write_text(
        "[[profile]]\nname = 'reading room'\nobjects = ['sr-comprehensive', 'capture', 'outline']\n"
        "[[destination]]\nname = 'a'\nae_title = 'A'\n"
        "[[destination]]\nname = 'b'\nae_title = 'B'\nprofile = 'reading room'\n"
        "[[destination]]\nname = 'c'\nae_title = 'C'\nprofile = 'full'\nsend = false\n"
        "[[destination]]\nname = 'd'\nae_title = 'D'\nprofile = 'legacy'\n"
    )
    settings = config.load(path, {})
    assert settings.wanted == {"sr", "capture", "sr-comprehensive", "outline"}
    page, report = {"not-performed-page"}, {"not-performed"}  # each gets one of the two, whatever its profile
    assert settings.withheld["a"] == set(config.OBJECTS) - {"sr", "capture"} | page
    assert settings.withheld["b"] == set(config.OBJECTS) - {"sr-comprehensive", "capture", "outline"} | page
    assert settings.withheld["d"] == set(config.OBJECTS) - {"capture"} | report
    assert settings.pages
    for objects in config.PROFILES.values():
        assert set(objects) <= set(config.OBJECTS)


@pytest.mark.parametrize("family", [Refused, Unavailable, Defect])
def test_an_error_that_crosses_processes_is_the_same_error(family: type[CaseworkError]) -> None:
    """What a pool's process raised says its code on the other side, instead of breaking the pool."""
    told = pickle.loads(pickle.dumps(family("LEDGER_UNAVAILABLE", "probe")))  # noqa: S301 - our own bytes
    assert (type(told), told.code, told.detail) == (family, "LEDGER_UNAVAILABLE", "probe")
