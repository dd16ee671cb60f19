"""F01 to F07, F20, F23 and F25 to F31 as data: intake under kills, broken disks, traffic and hostile peers."""

from tests.bench.reliability import crashes, hostile, intake, traffic, work
from tests.bench.reliability.lab import Control, Experiment, Mutation, both

FIRST_ANSWER = Mutation(
    "flows/intake.py",
    "                recorded = self._submit(_Pending(arrival=arrival)).recorded\n",
    "                threading.Timer(0.3, lambda: self._submit(_Pending(arrival=arrival))).start()\n"
    "                recorded = Recorded(verdict, code, 0, '')\n",
)
_INTAKE = [
    Experiment(
        "F01",
        "A listener killed at any moment has lost nothing that it acknowledged.",
        "500 rounds, 8 senders: 0 missing, 0 altered; restart to accept <= 3 s",
        intake.random_kills,
        {
            "ci": {"rounds": 6, "senders": 8},
            "small": {"rounds": 40, "senders": 8},
            "full": {"rounds": 500, "senders": 8},
        },
        Control("the answer waits for the commit", (FIRST_ANSWER,), {"rounds": 4}),
    ),
    Experiment(
        "F02",
        "A listener killed before any system call of a store has lost nothing that it acknowledged, and leaves no half file.",
        "every index of one C-STORE and one STOW of 3: 100 %",
        crashes.each_syscall,
        {"ci": {"positions": 2}, "small": {"positions": 20}, "full": {"positions": 1000}},
        Control("the answer waits for the commit", (FIRST_ANSWER,), {"positions": 8}),
    ),
    Experiment(
        "F03",
        "A power cut right after any acknowledgement loses nothing acknowledged; the ledger stays sound.",
        "200 cuts, torn writes: 0 lost, integrity ok 200 of 200",
        intake.power_cuts,
        {"ci": {"images": 40, "cuts": 8}, "small": {"images": 400, "cuts": 200}},
        Control(
            "the ledger's flush at each commit",
            (Mutation("ledger/database.py", '"synchronous=FULL"', '"synchronous=OFF"'),),
            {"images": 20, "cuts": 4},
        ),
    ),
    Experiment(
        "F04",
        "With the spool's flushes off the same power cuts are seen to lose something.",
        "at least 1 loss reported",
        intake.power_cuts_without_fsync,
        {"ci": {"images": 12, "cuts": 3}, "small": {"images": 60, "cuts": 10}},
        uncontrolled="it is itself the control of F03",
    ),
    Experiment(
        "F05",
        "One failed flush is final: 0xA700, no new association, health red, and that flush is never repeated.",
        "0xA700; accepting stops <= 1 s; no retry of that fsync",
        intake.failed_flush,
        {"ci": {"rounds": 2}, "small": {"rounds": 6}},
        Control(
            "a failed flush is an error",
            (
                Mutation(
                    "spool.py",
                    "            os.fsync(fd)\n        except OSError as error:\n            raise self._fail(error) from error\n",
                    "            os.fsync(fd)\n        except OSError:\n            return\n",
                ),
            ),
        ),
    ),
    Experiment(
        "F06",
        "A full disk refuses with 0xA700, acknowledges nothing that is cut, and takes images again once there is room.",
        "200 MiB into 64 MiB: all refused cleanly, 0 truncated acked, back <= 10 s, 0 deleted",
        intake.full_disk,
        {"ci": {"mib": 8}, "small": {"mib": 64}},
        Control(
            "ENOSPC is an error",
            (
                Mutation(
                    "spool.py",
                    '            raise Unavailable("DISK_LOW" if error.errno in _FULL else "STORAGE_FAILED", error.strerror or "") from error\n\n    def close',
                    "            return\n\n    def close",
                ),
            ),
            {"mib": 16},
        ),
        short="The ledger lies on another disk here (F07 fills its own).",
    ),
    Experiment(
        "F07",
        "A full or failing ledger disk acknowledges nothing, turns health red and does not end the listener.",
        "no ack; health red; no crash loop",
        intake.full_ledger,
        {"ci": {"images": 60}, "small": {"images": 200}},
        Control("the answer waits for the commit", (FIRST_ANSWER,)),
    ),
]
LEAK = (
    Mutation(
        "spool.py",
        "        self._digest.update(data)\n",
        "        self._digest.update(data)\n        _LEAK.append(bytes(data))\n",
    ),
    Mutation("spool.py", "_SHA256 = re.compile(", "_LEAK: list[bytes] = []\n_SHA256 = re.compile("),
)
_TRAFFIC = [
    Experiment(
        "F20",
        "A study that comes several times at once, over both doors, in any order, is one case with each image once.",
        "5 times, C-STORE and STOW: 1 row per SOP UID, 1 case, 0 extra inference",
        both(traffic.many_ways_at_once, work.analysed_once),
        {"ci": {"images": 6, "times": 4, "within": 120}, "small": {"images": 60, "times": 6, "within": 300}},
        Control(
            "what is known already is recognised",
            (
                Mutation(
                    "ledger/store_intake.py",
                    "        if holder is None:  # nobody has it",
                    "        if True:  # nobody has it",
                ),
            ),
        ),
    ),
    Experiment(
        "F23",
        "What was acknowledged before an association broke off stays; the broken instance leaves no trace.",
        "the k acknowledged stay and are processed",
        traffic.broken_off,
        {"ci": {"rounds": 40}, "small": {"rounds": 500}},
        Control(
            "a broken instance is abandoned",
            (Mutation("dicom/scp.py", "                association.sink.abandon()\n", "                pass\n"),),
            {"rounds": 20},
        ),
    ),
    Experiment(
        "F25",
        "On SIGTERM the port closes at once, open associations finish, the exit status is 0 and nothing is lost.",
        "50 drains under load: refused <= 1 s, exit <= 60 s, code 0, lost 0",
        traffic.drains,
        {
            "ci": {"rounds": 2, "closed_s": 3},
            "small": {"rounds": 10, "closed_s": 1},
            "full": {"rounds": 50, "closed_s": 1},
        },
        Control(
            "open associations may finish",
            (Mutation("entrypoints/listener.py", "DRAIN_S = 50.0", "DRAIN_S = 0.0"),),
            {"rounds": 2},
        ),
    ),
    Experiment(
        "F27",
        "Thousands of small instances are all stored without the memory growing.",
        "10,000 of 32 KiB over 1 and 10 associations: >= 300/s on NVMe, growth < 100 MiB",
        traffic.many_small,
        {"ci": {"images": 100}, "small": {"images": 2000}, "full": {"images": 10000}},
        Control("bytes that were written are let go", LEAK, {"images": 600, "growth_mb": 15}),
    ),
    Experiment(
        "F28",
        "An instance of gigabytes passes with flat memory, and nothing of it is written outside the spool.",
        "2 GB by C-STORE and STOW: growth < 64 MiB",
        traffic.huge,
        {"ci": {"mib": 64}, "small": {"mib": 2048}},
        Control("bytes that were written are let go", LEAK, {"mib": 128}),
    ),
    Experiment(
        "F29",
        "As many associations as are allowed are all served; one more is turned away cleanly.",
        "200 x 50: 100 % acked, p99 <= 2 s, clean RJ at limit + 1",
        traffic.many_associations,
        {
            "ci": {"associations": 40, "images": 3},
            "small": {"associations": 200, "images": 10, "p99_s": 2},
            "full": {"associations": 200, "images": 50, "p99_s": 2},
        },
        Control(
            "associations are counted",
            (
                Mutation(
                    "dicom/guard.py",
                    "if full or self._by_peer[place] >= self._settings.max_associations_per_peer:",
                    "if False:",
                ),
            ),
            {"associations": 20, "images": 2},
        ),
    ),
    Experiment(
        "F30",
        "Silent, dripping, half-shaken and flooding peers are dropped, and an honest C-ECHO answers within a second all the while.",
        "500 silent, 50 TLS, drips: echo <= 1 s, dropped <= 15 s, threads <= limit",
        hostile.slow_peers,
        {"ci": {"silent": 200, "flood": 100, "echo_s": 3}, "small": {"silent": 500, "flood": 2000}},
        Control(
            "a stranger has a deadline",
            (Mutation("dicom/guard.py", "if g.deadline < now]", "if g.deadline < 0]"),),
            {"silent": 50, "flood": 20},
        ),
    ),
    Experiment(
        "F31",
        "Malformed PDUs in any state end their own association and nothing else.",
        "10^6 mutated: 0 crash, 0 hang > 10 s, growth < 50 MiB, echo ok",
        hostile.malformed,
        {
            "ci": {"decoded": 20000, "pdus": 800, "echo_s": 3},
            "small": {"decoded": 1000000, "pdus": 8000},
            "full": {"decoded": 10000000, "pdus": 1000000},
        },
        Control(
            "an association that ends gives its place back",
            (Mutation("dicom/scp.py", "dec()\n            self._turnstile.leave(caller)\n", "dec()\n"),),
            {"pdus": 400, "decoded": 100},
        ),
    ),
]
ROWS = (*_INTAKE, *_TRAFFIC)
