"""What the doors write: receipts, instances, associations; and which case each instance belongs to.

One transaction for a whole batch. Verdict of an arrival: REFUSED and KEPT_ASIDE stay as they are and get a receipt;
ACCEPTED becomes DUPLICATE (same SOP Instance UID, same bytes), KEPT_ASIDE (same UID, other bytes: the first is kept and
a doubt is written down; one about patient or side stops the case until a person decides), or a new instance of a case.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import delete, insert, or_, select, update

from casework.case import ALTERED, STOPPING, Arrival, CaseState, Header, Recorded, Verdict, change
from casework.ledger.assembly import Assembler
from casework.ledger.columns import clean
from casework.ledger.database import Tx
from casework.ledger.schema import association, case_revision, doubt, exclusion, instance, process, receipt
from casework.ledger.store_base import Store, add_findings, move_case, words
from casework.ledger.store_cases import instance_row
from casework.ledger.store_fetch import priors_on_their_way
from casework.ledger.store_retention import returned

ASSOCIATION_SILENCE = timedelta(seconds=120)  # open ones are seen every 20 s


@dataclass(frozen=True, slots=True)
class _Flag:
    """A remark on a case about something that was kept aside."""

    code: str
    subject: str
    detail: str


@dataclass(slots=True)
class Item:
    """One arrival on its way to its verdict."""

    arrival: Arrival
    header: Header | None  # cleaned
    verdict: Verdict
    code: str
    instance_id: int | None = None
    root_id: str | None = None
    twin: "Item | None" = None  # the earlier arrival of the same batch with the same bytes


@dataclass(slots=True)
class _Known:
    """What holds a SOP Instance UID: a stored instance, or an item of this batch."""

    sha256: str
    instance_id: int | None
    root_id: str | None
    header: Header
    out: bool
    replaced: int | None = None  # by which instance: other bytes, which a person or a rule accepted
    item: Item | None = field(default=None)


class IntakeStore(Store):
    """The doors' part of the facade."""

    def record(self, arrivals: Sequence[Arrival], now: datetime) -> list[Recorded]:
        """Make arrivals part of the record, in one transaction; answer the sender only after this returns.

        Without arrivals it only shows that a transaction can write and commit.

        Raises:
            Unavailable: LEDGER_UNAVAILABLE, nothing was recorded.
        """
        with self._database.write(now) as tx:
            if not arrivals:
                _write_a_page(tx)
                return []
            items = [_item(arrival) for arrival in arrivals]
            new = _judge(tx, items)
            assembler = Assembler(tx, self._window_days)
            new = _set_priors_aside(tx, new, assembler)
            assembler.place([(item.header, item.arrival.received_at) for item in new if item.header])
            insert_instances(tx, new, assembler)
            _settle(items, assembler)
            doubts = _doubts(items, assembler)
            held = record_doubts(tx, doubts)
            cases = assembler.reopen({item.root_id for item in new if item.root_id} | held)
            _hold(tx, held)
            _insert_receipts(tx, items)
            for item in items:
                if item.root_id and item.root_id not in cases:
                    cases[item.root_id] = assembler.newest(item.root_id)
            _flag(tx, items, cases, assembler)
            _audit(tx, items, cases)
        return [_recorded(item, cases) for item in items]

    def open_association(  # noqa: PLR0917 - the contract's signature
        self,
        id: str,  # noqa: A002 - the contract's name
        calling: str,
        called: str,
        address: str,
        now: datetime,
        owner: str = "",
    ) -> None:
        """Note that a peer has connected to the process `owner`, which then says now and then that it still is."""
        row = {"id": id, "calling": clean(calling), "called": clean(called), "address": address, "opened_at": now}
        row |= {"ended": "", "code": "", "counts": {}, "owner": words(owner), "seen_at": now}
        with self._database.write(now) as tx:
            tx.connection.execute(insert(association), row)

    def see_associations(self, owner: str, now: datetime) -> None:
        """This process is alive and has its open associations still."""
        mine = (association.c.owner == words(owner)) & association.c.closed_at.is_(None)
        with self._database.write(now) as tx:
            tx.connection.execute(update(association).where(mine).values(seen_at=now))

    def close_association(self, id: str, end: str, code: str, counts: Mapping[str, int], now: datetime) -> None:  # noqa: A002 - same
        """Note how an association ended: `end` in a word ("released", "aborted", ...), `code` a reason or ""."""
        values = {"closed_at": now, "ended": end, "code": code, "counts": dict(counts)}
        with self._database.write(now) as tx:
            tx.connection.execute(update(association).where(association.c.id == id).values(values))

    def close_stale_associations(self, now: datetime, dead: Callable[[str], bool] = lambda _: False) -> int:
        """Close what a process left open that is `dead` or has been silent for long; return how many.

        Others may be open on other hosts: closing those would end the wait for their images.
        """
        open_ = association.c.closed_at.is_(None)
        with self._database.read() as connection:
            owners = connection.execute(select(association.c.owner).where(open_).distinct()).scalars().all()
        silent = association.c.seen_at < now - ASSOCIATION_SILENCE
        stale = open_ & or_(silent, association.c.owner.in_([owner for owner in owners if dead(owner)]))
        with self._database.read() as connection:
            if connection.execute(select(association.c.id).where(stale).limit(1)).first() is None:
                return 0
        with self._database.write(now) as tx:
            values = {"closed_at": now, "ended": "lost"}
            return tx.connection.execute(update(association).where(stale).values(values)).rowcount


def _item(arrival: Arrival) -> Item:
    header = _cleaned(arrival.header) if arrival.header else None
    if header is None and arrival.verdict is Verdict.ACCEPTED:  # never an accepted row without an instance
        return Item(arrival, None, Verdict.KEPT_ASIDE, "HEADER_MALFORMED")
    return Item(arrival, header, arrival.verdict, arrival.code)


def _cleaned(header: Header) -> Header:
    """Header without characters that one of the databases refuses; the file keeps them."""
    plain = {name: clean(getattr(header, name)) for name in Header.__slots__ if name != "attributes"}
    return Header(**plain, attributes={clean(k): clean(v) for k, v in header.attributes.items()})


def _judge(tx: Tx, items: list[Item]) -> list[Item]:
    """Turn ACCEPTED into DUPLICATE or KEPT_ASIDE where the SOP Instance UID is taken; return the new ones."""
    accepted = [item for item in items if item.verdict is Verdict.ACCEPTED and item.header]
    uids = {item.header.sop_instance_uid for item in accepted if item.header}
    known: dict[str, list[_Known]] = defaultdict(list)
    for row in tx.connection.execute(_holders(uids)):
        known[row.sop_uid].append(
            _Known(row.sha256, row.id, row.root_id, instance_row(row).header, row.out is not None, row.by)
        )
    new = []
    for item in accepted:
        if item.header is None:
            continue
        holders = known[item.header.sop_instance_uid]
        other = next((one for one in holders if not one.out), None)
        # What other bytes took the place of comes back as a correction, of those bytes even when a person has taken
        # them out since; what a person took out stays out.
        alike = [one for one in holders if one.sha256 == item.arrival.sha256]
        same = next((one for one in alike if one.replaced is None), None)
        instead = {one.replaced for one in alike}
        holder = same or other or next((one for one in holders if one.instance_id in instead - {None}), None)
        if holder is None:  # nobody has it, or a person took out whatever had it
            holders.append(_Known(item.arrival.sha256, None, None, item.header, out=False, item=item))
            new.append(item)
            continue
        item.verdict, item.code = Verdict.DUPLICATE, "DUPLICATE"
        if same is None:
            item.verdict, item.code = Verdict.KEPT_ASIDE, change(holder.header, item.header)
        item.instance_id, item.root_id, item.twin = (holder.instance_id if same else None), holder.root_id, holder.item
    again = [item.arrival.sha256 for item in accepted if item.verdict is Verdict.DUPLICATE]
    if again:
        returned(tx, again)
    return new


def _set_priors_aside(tx: Tx, new: list[Item], assembler: Assembler) -> list[Item]:
    """Turn what comes of a study that is fetched as a prior into KEPT_ASIDE; return the others. A known study is none."""
    assembler.look([item.header for item in new if item.header])
    unknown = [item for item in new if item.header and assembler.known_home(item.header) is None]
    priors = priors_on_their_way(tx, {item.header.study_instance_uid for item in unknown if item.header})
    for item in unknown:
        if item.header and item.header.study_instance_uid in priors:
            item.verdict, item.code = Verdict.KEPT_ASIDE, "PRIOR_CONTEXT"
    return [item for item in new if item.verdict is Verdict.ACCEPTED]


def _holders(uids: set[str]) -> Any:
    """Instances under these SOP Instance UIDs; `out` tells that one was taken out of its case."""
    left = (exclusion.c.instance_id == instance.c.id) & exclusion.c.lifted_at.is_(None)
    about = (exclusion.c.instance_id.label("out"), exclusion.c.replaced_by.label("by"))
    query = select(instance, *about).outerjoin_from(instance, exclusion, left)
    return query.where(instance.c.sop_uid.in_(sorted(uids))).order_by(instance.c.id)


def insert_instances(tx: Tx, new: list[Item], assembler: Assembler) -> None:
    """Store new instances in the homes that `assembler.place` found; each item learns its root and its id."""
    rows = []
    for item in new:
        header = item.header
        if header is None:
            continue
        home = assembler.home(header)
        item.root_id = home.root_id
        rows.append(
            {
                "sop_uid": header.sop_instance_uid,
                "root_id": home.root_id,
                "study_id": home.study_id,
                "sop_class": header.sop_class_uid,
                "study_uid": header.study_instance_uid,
                "series_uid": header.series_instance_uid,
                "transfer_syntax": header.transfer_syntax_uid,
                "modality": header.modality,
                "patient_id": header.patient_id,
                "issuer": header.issuer_of_patient_id,
                "accession": header.accession_number,
                "study_date": header.study_date,
                "attributes": dict(header.attributes),
                "sha256": item.arrival.sha256,
                "size": item.arrival.size,
                "received_at": item.arrival.received_at,
            }
        )
    if rows:
        tx.connection.execute(insert(instance), rows)
        made = select(instance.c.sop_uid, instance.c.sha256, instance.c.id)
        found = tx.connection.execute(made.where(instance.c.sop_uid.in_([row["sop_uid"] for row in rows])))
        keys = {(row.sop_uid, row.sha256): row.id for row in found}
        for item, row in zip(new, rows, strict=True):
            item.instance_id = keys[row["sop_uid"], row["sha256"]]


def _settle(items: list[Item], assembler: Assembler) -> None:
    """Give repeats within the batch, and what was kept aside, the case of the thing they belong to."""
    for item in items:
        if item.twin is not None:
            item.root_id = item.twin.root_id
            if item.verdict is Verdict.DUPLICATE:
                item.instance_id = item.twin.instance_id
    loose = [item for item in items if item.root_id is None and item.header]
    if loose:
        assembler.look([item.header for item in loose if item.header])
        for item in loose:
            home = assembler.known_home(item.header) if item.header else None
            item.root_id = home.root_id if home else None


def _insert_receipts(tx: Tx, items: list[Item]) -> None:
    rows = []
    for item in items:
        arrival, header = item.arrival, item.header
        rows.append(
            {
                "verdict": item.verdict,
                "code": item.code,
                "door": arrival.door,
                "peer": clean(arrival.peer),
                "association_id": arrival.association_id,
                "sop_uid": header.sop_instance_uid if header else "",
                "study_uid": header.study_instance_uid if header else "",
                "modality": header.modality if header else "",
                "patient_id": header.patient_id if header else "",
                "accession": header.accession_number if header else "",
                "sha256": arrival.sha256,
                "size": arrival.size,
                "instance_id": item.instance_id,
                "root_id": item.root_id,
                "received_at": arrival.received_at,
            }
        )
    tx.connection.execute(insert(receipt), rows)


def _flag(tx: Tx, items: list[Item], cases: Mapping[str, str], assembler: Assembler) -> None:
    """Put a remark on the case for what was kept aside, and for a study that names two patients."""
    flags: dict[str, list[_Flag]] = defaultdict(list)
    for item in items:
        if item.verdict is Verdict.KEPT_ASIDE and item.root_id:
            subject = item.header.sop_instance_uid if item.header else ""
            flags[cases[item.root_id]].append(_Flag(item.code, subject, f"sha256 {item.arrival.sha256}"))
    for root_id, code, study_uid in assembler.notes:
        flags[assembler.newest(root_id)].append(_Flag(code, study_uid, ""))
    for case_id, found in flags.items():
        add_findings(tx, case_id, found, "intake")


def _doubts(items: list[Item], assembler: Assembler) -> list[dict[str, Any]]:
    """What a person has to decide: other bytes under a known UID, a study that names two patients."""
    plain = {"sha256": "", "size": 0, "header": {}, "peer": ""}
    found = [
        {"root_id": root_id, "code": code, "subject": uid, **plain}
        for root_id, code, uid in assembler.notes
        if code in STOPPING
    ]
    for item in items:
        if item.verdict is Verdict.KEPT_ASIDE and item.code in ALTERED and item.root_id and item.header:
            about = {"root_id": item.root_id, "code": item.code, "subject": item.header.sop_instance_uid}
            bytes_ = {"sha256": item.arrival.sha256, "size": item.arrival.size, "header": asdict(item.header)}
            found.append({**about, **bytes_, "peer": clean(item.arrival.peer)})
    return found


def _write_a_page(tx: Tx) -> None:
    """Change something and change it back: a commit of nothing works on a full disk too."""
    now = tx.now
    row = {
        "door": "probe",
        "host": "",
        "pid": 0,
        "state": "",
        "code": "",
        "error_code": "",
        "error_at": None,
        "engine": "",
    }
    tx.connection.execute(insert(process), {**row, "started_at": now, "beat_at": now})
    tx.connection.execute(delete(process).where(process.c.door == "probe"))


def record_doubts(tx: Tx, doubts: list[dict[str, Any]]) -> set[str]:
    """Store doubts that are not known yet; return the roots that they stop."""
    if not doubts:
        return set()
    roots = {one["root_id"] for one in doubts}
    key = (doubt.c.root_id, doubt.c.code, doubt.c.subject, doubt.c.sha256)
    query = select(*key, doubt.c.id, doubt.c.decision).where(doubt.c.root_id.in_(roots))
    known = {tuple(row)[:4]: row for row in tx.connection.execute(query)}
    new = {(one["root_id"], one["code"], one["subject"], one["sha256"]): one for one in doubts}
    undecided = {"at": tx.now, "decision": "", "decided_by": "", "decided_at": None}
    # Bytes that were accepted once and come again have been replaced since: the same question is open again.
    again = {k: one for k, one in new.items() if k in known and known[k].sha256 and known[k].decision == "accepted"}
    for k in again:
        tx.connection.execute(update(doubt).where(doubt.c.id == known[k].id).values(undecided))
    fresh = [{**one, **undecided} for k, one in new.items() if k not in known]
    if fresh:
        tx.connection.execute(insert(doubt), fresh)
    rows = [*again.values(), *fresh]
    return {row["root_id"] for row in rows if row["code"] in STOPPING}


def _hold(tx: Tx, roots: set[str]) -> None:
    """Results that are on their way wait for a person too."""
    going = (case_revision.c.root_id.in_(sorted(roots))) & (case_revision.c.state == CaseState.DELIVERING)
    for case_id in tx.connection.execute(select(case_revision.c.id).where(going)).scalars().all() if roots else ():
        move_case(tx, case_id, CaseState.DELIVERING, CaseState.NEEDS_ATTENTION, code="HELD", actor="intake")


def _audit(tx: Tx, items: list[Item], cases: Mapping[str, str]) -> None:
    """One row for each case, verdict, code and association of the batch; a conflict gets its own."""
    groups: dict[tuple[Any, ...], list[Item]] = defaultdict(list)
    for number, item in enumerate(items):
        own = number if item.verdict is Verdict.KEPT_ASIDE else -1
        case_id = cases.get(item.root_id or "", "")
        groups[case_id, item.verdict, item.code, item.arrival.door, item.arrival.association_id, own].append(item)
    for (case_id, verdict, code, door, association_id, _), group in groups.items():
        tx.audit(
            f"instances.{verdict}",
            words(group[0].arrival.peer),
            case_id,
            f"association:{association_id}",
            code=code,
            door=door,
            count=len(group),
            bytes=sum(item.arrival.size for item in group),
            sha256=[item.arrival.sha256 for item in group if item.arrival.sha256],
        )


def _recorded(item: Item, cases: Mapping[str, str]) -> Recorded:
    return Recorded(item.verdict, item.code, item.instance_id, cases.get(item.root_id or ""))
