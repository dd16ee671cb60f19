"""A national screening load as events: cases arrive, are taken in, queued, analysed and delivered. No I/O, no clock but its own.

What decides is the service's own code: `flows.assemble.judge` says when a case is complete and AT_ONCE how many are queued at a look, `queue.lane_of` and `queue.Turns`
which of them, and which job a free worker takes. (The ledger's query within a lane is priority, then age; tests/bench/test_scaling.py compares the
order with a real ledger's.) What takes time is measured and given as `Costs`; arrivals and chances come from a seed.
"""

import heapq
import itertools
import random
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

from casework.case import STAT_PRIORITY, CaseState
from casework.config import Assembly, Policy
from casework.flows.assemble import AT_ONCE, Facts, Known, judge
from casework.queue import INFER, STAT, Turns, lane_of

DAY_S = 86400.0
HOURS = (0, 0, 0, 0, 0, 0, 1, 4, 9, 11, 12, 10, 6, 9, 11, 10, 8, 5, 3, 2, 1, 1, 0, 0)  # share of a working day's cases
WORKING_DAYS = 250
GROUP = 64  # images of one group commit at most


@dataclass(frozen=True)
class Costs:
    """What one screening case takes: four mammograms in, one report and four captures out. Seconds unless named otherwise."""

    images: int = 4
    objects: int = 5
    intake: float = 0.14  # of one listener host of two cores
    worker: float = 0.65  # of one worker that has nothing prepared ahead, as if its two cores never worked at once
    write: float = 0.010  # a writer's turn in the ledger; there is one turn at a time in the whole service
    image: float = 0.001  # what each further image adds to a turn of intake, which takes all that wait at a listener
    fixed_writes: int = 13
    object_writes: int = 2
    send: float = 0.105  # an object over an open association to one PACS

    def intake_s(self, images: int) -> float:
        """A turn for so many images at once."""
        return self.write + self.image * (images - 1)

    @property
    def turns(self) -> int:
        """Turns of a case that is alone: one for each image."""
        return self.images + self.fixed_writes + self.objects * self.object_writes

    @property
    def most_a_second(self) -> float:
        """Cases a second that one ledger ends when intake's turns are full."""
        images = self.images * self.intake_s(GROUP) / GROUP
        return 1 / (images + self.write * (self.fixed_writes + self.objects * self.object_writes))


@dataclass(frozen=True)
class Plant:
    """What is there to do it."""

    workers: int
    listeners: int = 2
    associations: int = 50  # of one listener; who comes later waits at its own end
    destinations: int = 100  # PACS, each with one sending thread
    stat_share: float = 0.01
    turns: Callable[[], Turns] = Turns


@dataclass(frozen=True)
class Demand:
    """How many cases, and the burst: for `burst_s` from `burst_at_s` on, `burst_times` the rate of that moment."""

    cases_a_year: int = 10_000_000
    burst_times: float = 1.0
    burst_at_s: float = 10 * 3600.0
    burst_s: float = 600.0
    burst_stat_share: float | None = None

    def rate(self, t: float) -> float:
        """Cases a second at a time of the day."""
        a_day = self.cases_a_year / WORKING_DAYS
        usual = a_day * HOURS[int(t // 3600) % 24] / sum(HOURS) / 3600
        return usual * (self.burst_times if self.in_burst(t) else 1.0)

    def in_burst(self, t: float) -> bool:
        """Whether the burst is on."""
        return self.burst_times > 1 and self.burst_at_s <= t < self.burst_at_s + self.burst_s


@dataclass
class Case:
    """One case's times: seconds of the day."""

    number: int
    priority: int
    destination: int
    begun: float  # its sender begins, or would
    last_image: float = 0.0  # acknowledged
    rule: float = 0.0  # seconds that the rule of completeness waits after the last image
    queued: float = 0.0
    claimed: float = 0.0
    written: float = 0.0
    delivered: float = 0.0


class Lanes:
    """Jobs that wait, taken as the ledger's claim does."""

    def __init__(self) -> None:
        self.waiting: dict[str, deque[Case]] = {lane: deque() for lane in INFER}

    def put(self, case: Case) -> None:
        """A job that may be claimed."""
        self.waiting[lane_of(case.priority)].append(case)

    def take(self, turns: Turns) -> Case | None:
        """The job that a worker with these turns gets."""
        for lane in turns.order:
            if self.waiting[lane]:
                turns.note(lane)
                return self.waiting[lane].popleft()
        return None

    def __len__(self) -> int:
        return sum(map(len, self.waiting.values()))


@dataclass
class Busy:
    """Servers that share one line: when the next one is free, and how long they worked in each hour."""

    free: list[float]
    hours: list[float] = field(default_factory=lambda: [0.0] * 96)

    def serve(self, now: float, seconds: float) -> float:
        """Begin as soon as one is free; when it ends."""
        begun = max(now, heapq.heappop(self.free))
        heapq.heappush(self.free, begun + seconds)
        self.hours[min(int(begun // 3600), 95)] += seconds
        return begun + seconds

    def busiest(self) -> float:
        """Share of the busiest hour."""
        return max(self.hours) / 3600 / len(self.free)


@dataclass
class Outcome:
    """A day as it went."""

    cases: list[Case]
    listeners: Busy
    ledger: Busy
    worker_hours: list[float]
    pacs: list[Busy]
    depth: list[tuple[float, int, float]]  # time, jobs waiting, age of the oldest

    def waits(self, *, stat: bool) -> list[float]:
        """From the last image's acknowledgement to the claim, without what the rule of completeness waits; sorted."""
        return sorted(c.claimed - c.last_image - c.rule for c in self.cases if (lane_of(c.priority) == STAT) == stat)

    def drained(self) -> float:
        """When the last case was delivered."""
        return max(c.delivered for c in self.cases)


def complete_after(*, stat: bool, known: bool) -> float:
    """Seconds from the last image to the keeper's verdict that the case may run, by the service's own rule."""
    rules, policy = Assembly(), Policy()
    for turn in itertools.count(1):
        idle = turn * rules.poll_s
        counts = Known({"1": 4}, unchanged_s=idle, after_last_image=True) if known else None
        facts = Facts({"1": 4}, idle_s=idle, known=counts, modalities=frozenset({"MG"}), stat=stat)
        if judge(facts, rules, policy).state is CaseState.STABLE:
            return idle
    raise AssertionError


def arrivals(demand: Demand, plant: Plant, seed: int, *, known_share: float = 0.9) -> Iterator[Case]:
    """Cases by the time when their senders begin, until midnight: a Poisson process whose rate follows the hours."""
    dice = random.Random(seed)
    most = max(demand.rate(t) for t in range(0, int(DAY_S), 300))
    t, number = 0.0, 0
    while (t := t + dice.expovariate(most)) < DAY_S:
        if dice.random() * most > demand.rate(t):
            continue
        number += 1
        burst = demand.burst_stat_share if demand.in_burst(t) else None
        stat = dice.random() < (plant.stat_share if burst is None else burst)
        case = Case(number, STAT_PRIORITY if stat else 0, dice.randrange(plant.destinations), begun=t)
        case.rule = complete_after(stat=stat, known=dice.random() < known_share)
        yield case


def run(plant: Plant, demand: Demand, costs: Costs, seed: int) -> Outcome:
    """One day, and as long after it as the last case takes."""
    return _Day(plant, demand, costs, seed).run()


class _Day:
    """The event loop. An event is (time, number, what to do); servers that nobody chooses between are `Busy`."""

    def __init__(self, plant: Plant, demand: Demand, costs: Costs, seed: int) -> None:
        self.costs, self.plant = costs, plant
        self.events: list[tuple[float, int, Callable[[float], None]]] = []
        self.numbers = itertools.count()
        self.lanes = Lanes()
        self.idle = [plant.turns() for _ in range(plant.workers)]
        self.listeners, self.ledger = Busy([0.0] * plant.listeners), Busy([0.0])
        self.outside: deque[Case] = deque()
        self.associations = plant.associations * plant.listeners
        self.taken: list[Case] = []
        self.committing = False
        self.complete, self.turns_of_keeper = Lanes(), plant.turns()
        self.keeping: list[Case] = []
        self.pacs = [Busy([0.0]) for _ in range(plant.destinations)]
        self.worker_hours = [0.0] * 96
        self.depth: list[tuple[float, int, float]] = []
        self.cases = list(arrivals(demand, plant, seed))
        for case in self.cases:
            self.at(case.begun, partial(self.arrive, case=case))
        for minute in range(0, int(2 * DAY_S), 60):
            self.at(float(minute), self.look)

    def at(self, when: float, what: Callable[[float], None]) -> None:
        heapq.heappush(self.events, (when, next(self.numbers), what))

    def write(self, now: float, turns: float) -> float:
        return self.ledger.serve(now, turns * self.costs.write)

    def run(self) -> Outcome:
        while self.events:
            now, _, what = heapq.heappop(self.events)
            what(now)
        return Outcome(self.cases, self.listeners, self.ledger, self.worker_hours, self.pacs, self.depth)

    def look(self, now: float) -> None:
        """Note how many cases wait to be claimed, and how long the oldest has, since it could have been."""
        lanes = (*self.complete.waiting.values(), *self.lanes.waiting.values())
        lines = [line for line in (self.keeping, *lanes) if line]
        oldest = min((line[0].last_image + line[0].rule for line in lines), default=now)
        self.depth.append((now, sum(map(len, lines)), now - oldest))

    def arrive(self, now: float, case: Case) -> None:
        """A sender begins, or waits at its own end while all associations are in use."""
        if not self.associations:
            self.outside.append(case)
            return
        self.associations -= 1
        self.at(self.listeners.serve(now, self.costs.intake), partial(self.commit, case=case))

    def commit(self, now: float, case: Case | None) -> None:
        """One turn of the ledger for all images that wait; then they are acknowledged and their associations end."""
        if case is not None:
            self.taken.append(case)
        if self.committing or not self.taken:
            return
        together, self.taken = self.taken[: GROUP // self.costs.images], self.taken[GROUP // self.costs.images :]
        self.committing = True
        done = self.ledger.serve(now, self.costs.intake_s(len(together) * self.costs.images))
        self.at(done, partial(self.acknowledge, together=together))

    def acknowledge(self, now: float, together: list[Case]) -> None:
        self.committing = False
        for case in together:
            self.associations += 1
            case.last_image = now
            self.at(now + case.rule, partial(self.keep, case=case))
        while self.outside and self.associations:
            self.arrive(now, self.outside.popleft())
        self.commit(now, None)

    def keep(self, now: float, case: Case | None) -> None:
        """The keeper is one process. Each of its looks queues the most urgent, then the oldest, by turns, at most AT_ONCE of them."""
        if case is not None:
            self.complete.put(case)
        if self.keeping or not self.complete:
            return
        self.keeping = [taken for _ in range(AT_ONCE) if (taken := self.complete.take(self.turns_of_keeper))]
        self.tend(now)

    def tend(self, now: float) -> None:
        if self.keeping:
            self.turns(now, self.costs.fixed_writes - 4, partial(self.queue, case=self.keeping[0]))
        else:
            self.keep(now, None)

    def turns(self, now: float, left: int, then: Callable[[float], None]) -> None:
        """So many turns of the ledger, each behind whoever waits; then go on."""
        if not left:
            then(now)
            return
        self.at(self.write(now, 1), lambda now: self.turns(now, left - 1, then))

    def queue(self, now: float, case: Case) -> None:
        self.keeping.pop(0)  # only now: while it is tended the keeper begins nothing else
        case.queued = now
        self.lanes.put(case)
        self.tend(now)
        if self.idle:
            self.claim(now, self.idle.pop())

    def claim(self, now: float, turns: Turns) -> None:
        case = self.lanes.take(turns)
        if case is None:
            self.idle.append(turns)
            return
        case.claimed = now
        self.worker_hours[min(int(now // 3600), 95)] += self.costs.worker

        def work(now: float) -> None:
            self.at(now + self.costs.worker, lambda now: self.turns(now, 2, finish))

        def finish(now: float) -> None:
            case.written = now
            self.send(now, case)
            self.claim(now, turns)

        self.turns(now, 2, work)

    def send(self, now: float, case: Case) -> None:
        """All objects of a case by the thread of its destination."""
        costs = self.costs
        sent = self.pacs[case.destination].serve(now, costs.objects * costs.send)

        def note(now: float) -> None:
            case.delivered = now

        self.at(sent, lambda now: self.turns(now, costs.objects * costs.object_writes, note))


def share(values: Sequence[float], part: float) -> float:
    """A quantile of sorted values; 0 without any."""
    return values[min(int(part * len(values)), len(values) - 1)] if values else 0.0
