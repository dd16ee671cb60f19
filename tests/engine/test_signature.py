"""Signed packages: only what a trusted key signed is served, nothing older comes back unseen, and a change on the disk stops the worker."""

import json
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from typer.testing import CliRunner

from casework.config import Settings, load
from casework.engine.bundle import open_package
from casework.entrypoints import cli
from casework.entrypoints.infer_worker import Worker
from casework.errors import Defect
from casework.ledger import Ledger
from tests.engine.conftest import MODELS, rewrite

NOW = datetime(2026, 11, 20, tzinfo=UTC)


def make_key(folder: Path, name: str, kind: str = "ed25519") -> tuple[Path, str]:
    """A key pair as a person makes it, with openssl."""
    private, public = folder / f"{name}.key", folder / f"{name}.pem"
    subprocess.run(["openssl", "genpkey", "-algorithm", kind, "-out", str(private)], check=True, capture_output=True)
    subprocess.run(["openssl", "pkey", "-in", str(private), "-pubout", "-out", str(public)], check=True)
    private.chmod(0o600)
    return private, str(public)


@pytest.fixture
def keys(tmp_path: Path) -> tuple[Path, str]:
    return make_key(tmp_path, "ours")


def sign(folder: Path, private: Path) -> int:
    return CliRunner().invoke(cli.app, ["sign-model", str(folder), "--key", str(private)]).exit_code


def refused(folder: Path, public: str, **options: bool) -> str:
    with pytest.raises(Defect) as caught:
        open_package(folder, [public], **options)
    return caught.value.code


def test_a_signed_package_is_served(copy: Path, keys: tuple[Path, str], tmp_path: Path) -> None:
    """What a trusted key signed opens and says whose key it was; without a trusted key nobody asks."""
    assert sign(copy, keys[0]) == 0
    package = open_package(copy, [make_key(tmp_path, "second")[1], keys[1]])
    assert package.signed_by == json.loads((copy / "manifest.sig").read_text())["key"]
    assert open_package(copy).signed_by == ""


def test_everything_else_is_refused(copy: Path, keys: tuple[Path, str], tmp_path: Path) -> None:
    """Unsigned, another key's, another manifest's, half a signature, a link: refused, even where unsigned is allowed."""
    private, public = keys
    assert refused(copy, public) == "MODEL_UNSIGNED"
    assert open_package(copy, [public], allow_unsigned=True).signed_by == ""
    stranger, _ = make_key(tmp_path, "stranger")
    assert sign(copy, stranger) == 0
    assert refused(copy, public, allow_unsigned=True) == "MODEL_UNSIGNED"
    assert sign(copy, private) == 0
    good = (copy / "manifest.sig").read_text()
    for bad in (good.replace("ed25519", "none"), good[:40], "", "[]", "null", good.replace('"key"', '"k"')):
        (copy / "manifest.sig").write_text(bad)
        assert refused(copy, public, allow_unsigned=True) == "MODEL_UNSIGNED"
    shutil.move(copy / "manifest.sig", tmp_path / "sig")
    (tmp_path / "sig").write_text(good)
    (copy / "manifest.sig").symlink_to(tmp_path / "sig")
    assert refused(copy, public, allow_unsigned=True) == "MODEL_UNSIGNED"
    (copy / "manifest.sig").unlink()
    (copy / "manifest.sig").write_text(good)
    rewrite(copy, version="9.9.9")
    assert refused(copy, public) == "MODEL_UNSIGNED"


def test_a_flipped_bit_is_found(copy: Path, keys: tuple[Path, str]) -> None:
    """One bit of any signed file, and the package is refused."""
    assert sign(copy, keys[0]) == 0
    for name in ("fusion.onnx", "encoder-mg.onnx"):
        data = bytearray((copy / name).read_bytes())
        data[len(data) // 2] ^= 1
        (copy / name).write_bytes(data)
        assert refused(copy, keys[1]) == "MODEL_INVALID"
        data[len(data) // 2] ^= 1
        (copy / name).write_bytes(data)
    assert open_package(copy, [keys[1]]).signed_by


def test_keys_that_can_not_be_used(copy: Path, keys: tuple[Path, str], tmp_path: Path) -> None:
    """A missing, open or foreign key is a setting to mend, not a package without signature."""
    assert refused(copy, str(tmp_path / "none")) == "MODEL_UNSIGNED"
    assert sign(copy, keys[0]) == 0
    assert refused(copy, str(tmp_path / "none")) == "CONFIG_INVALID"
    assert refused(copy, make_key(tmp_path, "x", "x25519")[1]) == "CONFIG_INVALID"
    keys[0].chmod(0o644)
    assert sign(copy, keys[0]) == 4


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    (tmp_path / "ledger").mkdir()
    opened = Ledger.open(f"sqlite:///{tmp_path / 'ledger' / 'ledger.db'}")
    opened.migrate()
    yield opened
    opened.close()


def test_no_step_back(ledger: Ledger) -> None:
    """An older version than the last is refused unless it is named; every change of model is one row of the audit."""
    assert ledger.serve_model("cman", "0.9.0", "a" * 64, "k1", NOW)
    assert not ledger.serve_model("cman", "0.9.0", "a" * 64, "k1", NOW)
    assert ledger.serve_model("cman", "0.10.0", "b" * 64, "k1", NOW), "by number, not by letter"
    assert ledger.serve_model("other", "0.1.0", "c" * 64, "", NOW), "each model has its own line"
    for allowed in ("", "cman", "cman 0.8.0", "other 0.9.0"):
        with pytest.raises(Defect) as caught:
            ledger.serve_model("cman", "0.9.0", "a" * 64, "k1", NOW, allow_rollback=allowed)
        assert caught.value.code == "MODEL_ROLLBACK"
    assert ledger.serve_model("cman", "0.9.0", "a" * 64, "k1", NOW, allow_rollback="cman 0.9.0")
    rows = [row for row in ledger.read.audit() if row.event == "model.served"]
    assert [(row.subject, row.detail["version"], row.detail["rollback"]) for row in rows] == [
        ("cman", "0.9.0", False),
        ("cman", "0.10.0", False),
        ("other", "0.1.0", False),
        ("cman", "0.9.0", True),
    ]


def test_the_worker_notices_a_change(copy: Path, keys: tuple[Path, str], tmp_path: Path) -> None:
    """A worker opens the signed package, refuses to begin with an older one, and stops when the files change under it."""
    assert sign(copy, keys[0]) == 0
    file = tmp_path / "casework.toml"
    file.write_text(
        f"[storage]\nroot = '{tmp_path / 'root'}'\n[work]\nmodel = '{copy}'\nreport_process = false\nprepare_ahead = false\n"
        f"[signing]\npublic_key_files = ['{keys[1]}']\n"
    )
    settings: Settings = load(file, {})
    (settings.root / "ledger").mkdir(parents=True)
    ledger = Ledger.open(settings.ledger_url)
    ledger.migrate()
    worker = Worker(replace(settings, signing=replace(settings.signing, check_s=0.0)))
    try:
        assert worker.step() is None
        data = bytearray((copy / "fusion.onnx").read_bytes())
        data[-1] ^= 1
        (copy / "fusion.onnx").write_bytes(data)
        with pytest.raises(Defect) as caught:
            worker.step()
        assert caught.value.code == "MODEL_CHANGED"
    finally:
        worker.close()
    data[-1] ^= 1
    (copy / "fusion.onnx").write_bytes(data)
    rewrite(copy, version="0.0.1")
    assert sign(copy, keys[0]) == 0
    with pytest.raises(Defect) as caught:
        Worker(settings)
    assert caught.value.code == "MODEL_ROLLBACK"
    ledger.close()


def test_packages_in_the_repository_need_no_key() -> None:
    """The shipped packages are signed by nobody: a site signs what it has accepted (ADR 22)."""
    for name in ("cman", "cman-tiny"):
        assert not (MODELS / name / "manifest.sig").exists()
