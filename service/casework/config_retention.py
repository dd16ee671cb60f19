"""How long what was stored is kept. Does no I/O."""

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

from casework.errors import Defect

if TYPE_CHECKING:
    from casework.config import Settings


@dataclass(frozen=True, slots=True)
class Retention:
    """What is removed when a case has rested for so many days. 0 keeps it for ever, which is the default.

    Removed are bytes: images, results, the bodies of webhooks. The ledger's rows and its audit, with Patient ID and accession number,
    are never removed. Nothing goes that is not delivered and proved, belongs to a case that is not at its end, waits for a person's
    decision, or is on hold (`casework hold`).
    """

    images_days: int = 0  # received images
    results_days: int = 0  # SR, captures and other results; they can't be sent again or withdrawn from here afterwards
    webhooks_days: int = 0  # bodies of events that were taken
    every_s: float = 60.0  # how often the keeper looks
    batch: int = 200  # and how much it removes at a time


LEAST_DAYS = 7


def check_retention(settings: "Settings") -> None:
    """Refuse times that would take away what a case may still need."""
    kept = settings.retention
    for setting in fields(kept):
        days = getattr(kept, setting.name)
        if setting.name.endswith("_days") and days != 0 and not LEAST_DAYS <= days <= 36500:
            raise Defect("CONFIG_INVALID", f"retention.{setting.name}: 0 (for ever) or {LEAST_DAYS} to 36500")
    if 0 < kept.images_days <= settings.assembly.window_days:
        raise Defect(
            "CONFIG_INVALID", "retention.images_days must be above assembly.window_days: a late image needs them"
        )
    if 0 < kept.results_days < 30:
        raise Defect("CONFIG_INVALID", "retention.results_days: at least 30; until then results can be withdrawn")
    if not (10 <= kept.every_s <= 86400 and 1 <= kept.batch <= 10_000):
        raise Defect("CONFIG_INVALID", "retention.every_s: 10 to 86400; retention.batch: 1 to 10000")
