"""The ledger of an earlier moment over today's spool, in a whole hospital. For F41."""

import shutil
import subprocess
import sys
from pathlib import Path

from tests.bench.reliability.lab import Lab
from tests.bench.reliability.traffic import rows
from tests.bench.reliability.work import Sent, _undelivered
from tests.e2e.conftest import Hospital, make_case


def older_ledger(lab: Lab) -> None:
    """Cases come and are delivered, a backup is made in the middle of them, the ledger is lost: the rest is adopted."""
    site = Hospital(lab.folder / "h")
    sent: Sent = []
    copy, root = lab.folder / "backup", lab.folder / "h" / "service" / "storage"
    try:
        for number in range(lab.n("cases")):
            truth = make_case(lab.folder, 4100 + number)
            sent.append((truth, site.send(truth, lambda ds: ds.Modality == "MG")))
            if number == lab.n("cases") // 2:
                _casework(site, "backup", str(copy))
        late = _undelivered(site, sent, lab.size["within"])
        lab.must(not late, f"before anything is lost: {late[:3]}")
        images = {str(ds.SOPInstanceUID) for _, headers in sent for ds in headers}
        before = _held(site)
        site.service.stop()
        known = _known(copy)
        shutil.rmtree(root / "ledger")
        _casework(site, "restore-backup", str(copy), "--over-images")
        said = _casework(site, "adopt", "--settled", "0")
        back = {str(uid) for (uid,) in rows(root, "SELECT sop_uid FROM instance")}
        lab.must(images <= back, f"{len(images - back)} of {len(images - known)} orphans are not adopted: {said}")
        doubled = rows(root, "SELECT sop_uid FROM instance GROUP BY sop_uid HAVING count(*) > 1")
        lab.must(not doubled, f"{len(doubled)} images are in the ledger twice")
        _casework(site, "verify-ledger", "--objects")
        site.service.start("PACS", site.pacs.port)
        late = _undelivered(site, sent, lab.size["within"])
        lab.must(not late, f"{len(late)} of {len(sent)} cases are not delivered after it: {late[:3]}")
        after = _held(site)
        lab.must(
            after == before,
            f"the PACS holds {len(after)} results, {len(set(after) - set(before))} are new; before {len(before)}",
        )
        lab.figures |= {"cases": len(sent), "images": len(images), "orphans": len(images - known)}
        lab.figures |= {
            "adopted": len(images & back) - len(images & known),
            "results_before": len(before),
            "results_after": len(after),
        }
        lab.must(images - known, "the backup holds everything: nothing was lost")
    finally:
        site.stop()


def _casework(site: Hospital, *words: str) -> str:
    """One command of the operator's.

    Raises:
        RuntimeError: it failed.
    """
    command = [sys.executable, "-m", "casework", *words, "--config", str(site.service.config)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    if done.returncode:
        raise RuntimeError(f"{words[0]}: {done.stdout[-200:]} {done.stderr[-300:]}")
    return done.stdout


def _known(copy: Path) -> set[str]:
    """The images that the backup's ledger knows."""
    place = copy / "looked" / "ledger"
    place.mkdir(parents=True)
    shutil.copyfile(copy / "ledger.db", place / "ledger.db")
    return {str(uid) for (uid,) in rows(copy / "looked", "SELECT sop_uid FROM instance")}


def _held(site: Hospital) -> list[str]:
    """The results in the PACS, one UID for each object that is there."""
    return sorted(str(ds.SOPInstanceUID) for objects in site.results().values() for ds in objects)
