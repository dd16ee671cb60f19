"""F08 to F19, F21, F22, F24, F26 and F41 to F43 as data: workers, queues, PACS, clocks, the whole hospital."""

from tests.bench.reliability import lines, queues, rebuild, work
from tests.bench.reliability.lab import Control, Experiment, Mutation
from tests.bench.reliability.suite import by_tests

LEASES_NEVER_END = Mutation(
    "ledger/store_jobs.py",
    '_EXPIRED = and_(_KINDS, job.c.state == _J.LEASED.value, _outside(job.c.lease_until, "longest_lease"))\n',
    '_EXPIRED = and_(_KINDS, job.c.state == "never")\n',
)
SAID_ONCE = Mutation("flows/relay.py", "        if late:\n", "        if False:\n")
BROKER = "tests/queue/test_broker.py::"
QUEUE = "tests/queue/test_queue.py::"
DELIVER = "tests/deliver/test_deliver.py::"
PROVE = "tests/deliver/test_prove.py::"
ROWS = (
    Experiment(
        "F08",
        "Killing a worker at any moment of a job loses no job and makes no second result.",
        "200 kills: lost 0, 1 result set, requeue <= lease + 30 s",
        work.worker_kills,
        {
            "ci": {"jobs": 12, "kills": 2, "within": 120, "pause": 0.2},
            "small": {"jobs": 150, "kills": 20, "within": 300, "pause": 0.1},
            "full": {"jobs": 1000, "kills": 200, "within": 1200, "pause": 0.1},
        },
        Control("leases end", (LEASES_NEVER_END,), {"jobs": 12, "kills": 4, "within": 20, "pause": 0.3}),
        short="The engine takes a fixed time; claim, lease, fence and ledger are the service's. The real engine is killed in F26 and F42.",
    ),
    Experiment(
        "F09",
        "Killing the Celery worker group under load loses no job and delivers none twice.",
        "100 kills, 30,000 jobs: lost 0, twice 0 (raw Celery: 8 lost)",
        work.celery_storm,
        {
            "ci": {"jobs": 10, "kills": 1, "within": 120},
            "small": {"jobs": 1000, "kills": 8, "within": 300},
            "full": {"jobs": 30000, "kills": 100, "within": 3600},
        },
        Control("leases end", (LEASES_NEVER_END,), {"jobs": 12, "kills": 4, "within": 20, "pause": 0.3}),
    ),
    Experiment(
        "F10",
        "While Redis is away images are taken in as before, and every job is done soon after it is back.",
        "10 min away: >= 95 % of the rate, first job <= 15 s after",
        work.redis_away,
        {
            "ci": {"seconds": 8, "within": 60, "pace_s": 0.5},
            "small": {"seconds": 40, "within": 300, "pace_s": 0.5},
            "full": {"seconds": 600, "within": 1800, "pace_s": 0.5},
        },
        Control(
            "what could not be said is said later",
            (
                SAID_ONCE,
                Mutation(
                    "flows/relay.py",
                    "            self.bell.ring(lane, due)\n            said.update(dict.fromkeys(due, clock))\n",
                    "            said.update(dict.fromkeys(due, clock))\n            self.bell.ring(lane, due)\n",
                ),
            ),
            {"seconds": 4, "within": 20},
        ),
        short="Images come twice a second, not as fast as they go: there a busy machine's rate varies by more than 5 % by itself.",
    ),
    Experiment(
        "F11",
        "A Redis that forgets everything costs time and nothing else.",
        "50 FLUSHALL: lost 0, caught up <= 30 s",
        by_tests(f"{BROKER}test_a_redis_that_forgets_everything_costs_time_only", also=queues.redis_forgets),
        {
            "ci": {"rounds": 4, "repeat_s": 1},
            "small": {"rounds": 30, "repeat_s": 1},
            "full": {"rounds": 50, "repeat_s": 20},
        },
        Control("what went missing is said again", (SAID_ONCE,), {"rounds": 6}),
        short="Messages are repeated after 1 s instead of the 20 s that are the default, so that 50 rounds take minutes.",
    ),
    Experiment(
        "F12",
        "Redis may be killed or hang at any moment; the worker goes on by itself.",
        "50 kills, SIGSTOP 120 s, half-open: resumes <= 60 s, 0 restarts by hand",
        work.redis_kills,
        {
            "ci": {"rounds": 2, "stopped_s": 1},
            "small": {"rounds": 10, "stopped_s": 10},
            "full": {"rounds": 50, "stopped_s": 120},
        },
        Control(
            "a message that can't be acknowledged is let go",
            (
                Mutation(
                    "queue/scale.py",
                    "            VirtualQoS.ack(self, delivery_tag)\n            raise\n",
                    "            raise\n",
                ),
            ),
            {"rounds": 10, "stopped_s": 1},
        ),
        short="Half-open lines are cut between network namespaces by `python -m tests.bench.hosts`, not here.",
    ),
    Experiment(
        "F13",
        "Foreign and corrupt messages in the queue are not executed and end no worker.",
        "bad JSON, pickle, unknown task or id, 10 MB: 0 executed",
        by_tests(f"{BROKER}test_foreign_and_corrupt_messages_are_dropped"),
        {"small": {}},
        Control(
            "only JSON is taken",
            (
                Mutation(
                    "queue/scale.py",
                    '"accept_content": ["json"],\n        "result',
                    '"accept_content": ["json", "pickle"],\n        "result',
                ),
            ),
        ),
    ),
    Experiment(
        "F14",
        "A job that is said five times runs once.",
        "5x, 4 workers: 1 run, extra dropped <= 50 ms",
        by_tests(f"{BROKER}test_a_job_that_is_said_five_times_runs_once"),
        {"small": {}},
        Control(
            "only a waiting job is claimed",
            (
                Mutation(
                    "ledger/store_jobs.py",
                    "        .where(job.c.kind == kind, job.c.state == _J.READY, may)\n",
                    "        .where(job.c.kind == kind)\n",
                ),
            ),
        ),
    ),
    Experiment(
        "F15",
        "A worker that slept through its lease can't write its result any more.",
        "SIGSTOP 2 x lease: refused by fence 100 %, 1 result",
        by_tests(f"{QUEUE}test_a_paused_workers_result_is_refused"),
        {"small": {}},
        Control(
            "the fence",
            (
                Mutation(
                    "ledger/store_jobs.py",
                    '_MINE = and_(job.c.id == bindparam("job_id"), job.c.fence == bindparam("fence"), job.c.state == _J.LEASED.value)\n',
                    '_MINE = job.c.id == bindparam("job_id")\n',
                ),
            ),
        ),
    ),
    Experiment(
        "F16",
        "A study that kills its decoder or its worker needs a person after three tries; the others go on.",
        "SIGSEGV, abort, OOM, loop: <= 3 tries, parent alive",
        by_tests(
            f"{QUEUE}test_a_poison_job_ends_after_its_tries",
            "tests/analyse/test_child.py::test_a_crash_is_one_code_and_the_next_task_runs",
            "tests/analyse/test_case.py::test_a_decoder_crash_costs_the_image_never_the_worker",
            also=queues.poisoned,
        ),
        {
            "ci": {"cases": 20, "poison": 1, "every_s": 0.5},
            "small": {"cases": 80, "poison": 2, "every_s": 0.5},
        },
        Control(
            "tries are counted",
            (
                Mutation(
                    "ledger/store_jobs.py",
                    "        if row.attempt < row.max_attempts:\n            ready += 1\n",
                    "        if row.attempt < 99:\n            ready += 1\n",
                ),
            ),
        ),
        short="The p95 may rise by 0.2 s beside the 20 %: that is what one start of a child takes away on a busy machine.",
    ),
    Experiment(
        "F17",
        "A PACS that is down, slow, refuses or hangs loses nothing, is not hammered and delays no other PACS.",
        "6 h down: lost 0, delivered <= 2 min after, no head-of-line block",
        by_tests(
            f"{DELIVER}test_down_and_back_delivers_once_with_the_same_bytes",
            f"{DELIVER}test_past_the_horizon_it_is_dead_and_an_operator_can_send_it_again",
            f"{DELIVER}test_a_slow_pacs_does_not_delay_another",
            f"{DELIVER}test_a_pacs_that_stops_reading_is_cut_off",
            f"{DELIVER}test_breaker_lets_one_through_and_tries_more_rarely",
            f"{DELIVER}test_backoff_doubles_with_full_jitter_up_to_its_bound",
            also=lines.bad_line,
        ),
        {"small": {"objects": 6, "within": 180}},
        Control("the breaker", (Mutation("flows/deliver.py", "FAILURES_TO_OPEN = 3", "FAILURES_TO_OPEN = 3000"),)),
        short="Seconds instead of 6 h, with waits made short; the 72 h horizon by a clock that is moved.",
    ),
    Experiment(
        "F18",
        "Every answer of a PACS has its class: warnings are not sent again, unknown outcomes send the same bytes again.",
        "table 100 %; PACS holds 1",
        by_tests(
            "tests/deliver/test_answers.py",
            f"{DELIVER}test_each_class_of_answer",
            f"{DELIVER}test_a_warning_is_not_sent_again",
            f"{DELIVER}test_an_unknown_outcome_sends_the_same_bytes_again",
        ),
        {"small": {}},
        Control(
            "0xA700 is no success",
            (Mutation("dicom/answers.py", '(0xA700, _A.AGAIN, "PEER_BUSY")', '(0xA700, _A.STORED, "DELIVERED")'),),
        ),
    ),
    Experiment(
        "F19",
        "A PACS that acknowledges and loses gets the same bytes again; delivered means proved.",
        "resend; committed only after N-EVENT-REPORT success",
        by_tests(
            f"{PROVE}test_a_lost_object_is_sent_again_as_the_same_bytes",
            f"{PROVE}test_committed_on_either_association",
            f"{PROVE}test_a_foreign_transaction_changes_nothing",
            f"{PROVE}test_orthanc_commits",
        ),
        {"small": {}},
        Control(
            "a destination is asked for proof",
            (Mutation("config.py", 'return "" if chosen == "none" else chosen', 'return ""'),),
        ),
    ),
    Experiment(
        "F21",
        "Other bytes under a known UID are kept aside and flagged; the first stay.",
        "first kept, second aside, never silent, audit row 1",
        by_tests(
            "tests/protocol/test_store.py::test_duplicates_and_conflicts",
            "tests/ledger/test_ledger_audit.py::test_conflict_and_refusal_are_audited",
        ),
        {"small": {}},
        Control(
            "bytes are compared",
            (
                Mutation(
                    "ledger/store_intake.py",
                    "        if same is None:\n            item.verdict",
                    "        if False:\n            item.verdict",
                ),
            ),
        ),
    ),
    Experiment(
        "F22",
        "A study in parts is closed by its quiet time; what comes later makes a new result that names the old one.",
        "new digest, new result, predecessor named, nothing overwritten",
        by_tests(
            "tests/assemble/test_assemble.py",
            "tests/analyse/test_case.py::test_a_late_image_makes_a_revision_that_names_its_predecessor",
            "tests/deliver/test_retract.py::test_a_result_that_was_replaced_can_be_withdrawn_too",
        ),
        {"small": {}},
        Control(
            "what comes late opens a new revision",
            (
                Mutation(
                    "ledger/assembly.py",
                    "if row is None or state not in (CaseState.RECEIVING",
                    "if row is None or state in (CaseState.CLOSED",
                ),
            ),
        ),
    ),
    Experiment(
        "F24",
        "Clocks that jump by hours, of workers or of the intake's door, stick no job, double none and refuse no image.",
        "+-1 h, -10 min, DST: 0 double run, 0 stuck, audit in order",
        work.clocks,
        {"ci": {"jobs": 2, "jumps": 1, "within": 120}, "small": {"jobs": 8, "jumps": 7, "within": 120}},
        Control(
            "a lease of the future is none",
            (
                Mutation(
                    "ledger/store_jobs.py",
                    '    return or_(column <= bindparam("now", type_=Instant()), column > bindparam(longest, type_=Instant()))\n',
                    '    return or_(column <= bindparam("now", type_=Instant()))\n',
                ),
            ),
            {"jobs": 3, "jumps": 1, "within": 15},
        ),
    ),
    Experiment(
        "F26",
        "With a random door killed every few seconds every case is delivered, once.",
        "every 5 s for 10 min: all final <= 5 min after, lost 0",
        work.hospital,
        {
            "ci": {"seconds": 20, "every_s": 5, "cases": 2, "outages": 0, "within": 300},
            "small": {"seconds": 120, "every_s": 5, "cases": 8, "outages": 0, "within": 300},
            "full": {"seconds": 600, "every_s": 5, "cases": 40, "outages": 0, "within": 600},
        },
        Control("leases end", (LEASES_NEVER_END,), {"seconds": 40, "every_s": 3, "within": 60}),
        short="Its control was not caught in 40 s: probably too few kills met a worker that held a lease. F08 catches the same mutant.",
    ),
    Experiment(
        "F41",
        "A backup made while a door writes brings back all that was acknowledged; an older ledger over today's spool adopts the rest, once.",
        "ledger of T-10 min over today's spool: 100 % of orphans adopted, 0 duplicates",
        by_tests("tests/ops/test_backup.py", "tests/ops/test_adopt.py", also=rebuild.older_ledger),
        {"small": {"cases": 4, "within": 200}},
        Control(
            "an object is compared with its name",
            (Mutation("entrypoints/backup.py", "    if found.hexdigest() != digest:\n", "    if False:\n"),),
        ),
    ),
    Experiment(
        "F42",
        "A hospital with killed doors and a PACS that comes and goes loses and doubles nothing, and handles don't grow.",
        "24 h, or 2 h scaled: lost 0, twice 0, RSS < 1 MiB/h, handles 0",
        work.hospital,
        {
            "small": {"seconds": 240, "every_s": 8, "cases": 12, "outages": 1, "within": 200},
            "full": {"seconds": 7200, "every_s": 20, "cases": 200, "outages": 1, "within": 900},
        },
        Control(
            "leases end", (LEASES_NEVER_END,), {"seconds": 40, "every_s": 3, "outages": 0, "cases": 4, "within": 60}
        ),
        short="Minutes, not 2 h: memory is printed, not judged, since killed doors start anew.",
    ),
    Experiment(
        "F43",
        "A program refuses a ledger of a newer version, and today's schema can be taken down and up again.",
        "N-1 -> N -> N-1 with jobs in flight: lost 0, reversible or refuses",
        by_tests(
            "tests/ledger/test_ledger_database.py::test_newer_ledger_is_refused",
            "tests/ledger/test_ledger_database.py::test_up_down_up",
            "tests/ledger/test_ledger_database.py::test_migrations_make_the_schema",
            "tests/ops/test_migrations.py",
        ),
        {"small": {}},
        Control(
            "a newer ledger is refused",
            (Mutation("ledger/migrate.py", "        if at is not None and at not in known:\n", "        if False:\n"),),
        ),
        short="No version has been released, so N-1 is played by a migration that only adds, under running doors.",
    ),
)
