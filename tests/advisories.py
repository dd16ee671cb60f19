"""Compare every locked requirement with databases of known vulnerabilities, without asking a service for each.

    python -m tests.advisories                     # the databases as they are now
    python -m tests.advisories --mirrors FOLDER    # from FOLDER/<owner>+<name>/repo: without the internet, as old as the mirror is

Two databases: PyPA's (OSV, CC BY 4.0) and Safety's free one (CC BY-NC-SA 4.0, a month late). Neither is committed. Prints the date of each: what
was published after it is not in it, so an old database proves little. Ends with 1 when a locked version is named. The result of the last run is in
docs/security-checks.md. Where a service may be asked, `pip-audit --require-hashes -r requirements-service.lock` knows more.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from packaging.specifiers import SpecifierSet
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[1]
LOCKS = (*sorted(ROOT.glob("requirements*.lock")), *sorted(ROOT.glob("models/requirements*.lock")))
PYPA, SAFETY = "pypa/advisory-database", "pyupio/safety-db"


def locked() -> dict[tuple[str, str], set[str]]:
    """Each pinned name and version, and the lock files that hold it."""
    found: dict[tuple[str, str], set[str]] = {}
    for lock in LOCKS:
        for name, version in re.findall(
            r"^([A-Za-z0-9_.-]+)(?:\[[^\]]*\])?==([^\s;\\]+)", lock.read_text("utf-8"), re.MULTILINE
        ):
            found.setdefault((plain(name), version), set()).add(lock.name)
    return found


def plain(name: str) -> str:
    """A package's name as the index compares it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


class Mirror:
    """A git repository: one of a folder of mirrors, or fetched now."""

    def __init__(self, name: str, mirrors: Path | None, folder: str) -> None:
        self.name, self._at = name, str(mirrors / name.replace("/", "+") / "repo") if mirrors else folder
        if mirrors is None:
            subprocess.run(["git", "init", "-q", "--bare", folder], check=True)
            address = f"https://github.com/{name}.git"
            subprocess.run(
                ["git", "-C", folder, "fetch", "-q", "--depth", "1", address, "HEAD:refs/heads/now"], check=True
            )
        self.head = "now" if mirrors is None else "HEAD"

    def git(self, *words: str) -> bytes:
        """Ask git."""
        return subprocess.run(["git", "-C", self._at, *words], check=True, capture_output=True).stdout

    @property
    def said(self) -> str:
        """Commit and date."""
        return f"{self.name} {self.git('log', '-1', '--format=%h of %cs', self.head).decode().strip()}"


def pypa(mirror: Mirror, names: set[str]) -> Iterator[tuple[str, str, Any]]:
    """(package, id, test of a version) of every advisory about these packages that was not withdrawn."""
    for path in mirror.git("ls-tree", "-r", "--name-only", mirror.head, "vulns").decode().splitlines():
        if plain(path.split("/")[1]) not in names:
            continue
        told = yaml.safe_load(mirror.git("show", f"{mirror.head}:{path}"))
        for affected in told.get("affected", ()) if "withdrawn" not in told else ():
            yield plain(affected["package"]["name"]), told["id"], affected


def touches(affected: Mapping[str, Any], version: Version) -> bool:
    """Whether an OSV record's versions or ranges hold a version."""
    if str(version) in map(str, affected.get("versions", ())):
        return True
    for kind in affected.get("ranges", ()):
        inside = False
        for event in kind["events"] if kind["type"] == "ECOSYSTEM" else ():
            first, fixed, last = (
                Version(str(event.get(word, "0"))) for word in ("introduced", "fixed", "last_affected")
            )
            inside = inside or ("introduced" in event and version >= first)
            if ("fixed" in event and version >= fixed) or ("last_affected" in event and version > last):
                inside = False
        if inside:
            return True
    return False


def main() -> int:
    """Print what is known; 1 when a locked version is named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mirrors", type=Path)
    options = parser.parse_args()
    pins, bad = locked(), 0
    names = {name for name, _ in pins}
    print(f"{len(pins)} locked versions of {len(names)} packages in {len(LOCKS)} lock files")
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as other:
        osv, safety = Mirror(PYPA, options.mirrors, one), Mirror(SAFETY, options.mirrors, other)
        records = list(pypa(osv, names))
        hits = {
            (name, version, known)
            for name, version in pins
            for about, known, affected in records
            if about == name and touches(affected, Version(version))
        }
        print(
            f"{osv.said}: {len(records)} advisories about {len({r[0] for r in records})} of them; {len(hits)} of a locked version"
        )
        table = {plain(k): v for k, v in json.loads(safety.git("show", f"{safety.head}:data/insecure.json")).items()}
        also = {
            (name, version, span)
            for name, version in pins
            for span in table.get(name, ())
            if SpecifierSet(span).contains(version, prereleases=True)
        }
        said = sum(len(table.get(name, ())) for name in names)
        print(f"{safety.said}: {said} ranges about {len(names & set(table))} of them; {len(also)} of a locked version")
        for name, version, known in sorted(hits | also):
            print(f"  {name} {version}: {known} ({', '.join(sorted(pins[name, version]))})")
            bad = 1
    return bad


if __name__ == "__main__":
    sys.exit(main())
