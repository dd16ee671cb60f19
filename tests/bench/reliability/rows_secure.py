"""F32 to F40 as data: TLS, hostile files, roles, patient data, integrity. All by tests of the suite."""

from tests.bench.reliability import corpus, fuzzers
from tests.bench.reliability.lab import Control, Experiment, Mutation
from tests.bench.reliability.suite import by_tests

TLS = "tests/protocol/test_tls.py::"
HEADER = "tests/protocol/test_header.py::"
PACKAGE = "tests/engine/test_package.py"
ROWS = (
    Experiment(
        "F32",
        "Plain, old, weak, strange and missing certificates get not one byte of DICOM.",
        "100 % refused before any DICOM byte",
        by_tests(
            f"{TLS}test_old_versions_and_weak_suites_are_refused",
            f"{TLS}test_plain_dicom_on_the_tls_port_and_tls_on_the_plain_port",
            f"{TLS}test_mutual_tls",
            f"{TLS}test_200_half_open_handshakes",
        ),
        {"small": {}},
        Control(
            "a peer has to show a certificate",
            (Mutation("tls.py", "context.verify_mode = ssl.CERT_REQUIRED", "context.verify_mode = ssl.CERT_NONE"),),
        ),
    ),
    Experiment(
        "F33",
        "Files that inflate, nest or announce without end are refused within two seconds.",
        "<= 2 s each, RSS < 256 MiB, worker alive",
        by_tests(
            f"{HEADER}test_depth_3000_is_refused_quickly",
            f"{HEADER}test_million_elements_are_refused_within_two_seconds",
            f"{HEADER}test_deflate_bombs",
            "tests/protocol/test_store.py::test_deflate_bomb_is_refused",
            "tests/security/test_bombs.py",
        ),
        {"small": {}},
        Control("the limit of depth", (Mutation("dicom/scanner.py", "depth: int = 64", "depth: int = 100_000"),)),
    ),
    Experiment(
        "F34",
        "Every file of the hostile corpora is accepted, kept aside or refused, and nothing else.",
        "950 files: 0 crash, hang, OOM",
        corpus.hostile_corpus,
        {"ci": {"files": 40, "within": 60}, "small": {"files": 1500, "within": 300}},
        Control(
            "what can't be read is a refusal",
            (
                Mutation(
                    "dicom/header.py",
                    '    except struct_error as error:\n        raise Refused("TRUNCATED", "file meta information") from error\n',
                    "    except MemoryError:\n        raise\n",
                ),
            ),
            {"files": 150, "within": 60},
        ),
        short="Its control was not caught: no file of the set needs the guard that it takes off, so this run shows that nothing broke, not that "
        "it would have been seen. A mutant that a file of the corpora reaches is wanted.",
    ),
    Experiment(
        "F35",
        "Fuzzers find no exception in header check, STOW parser and manifest reader but the declared refusal.",
        "4 CPU-h: 0 uncaught, parser coverage >= 90 %",
        by_tests(
            f"{HEADER}test_mutated_files_end_in_an_answer",
            f"{HEADER}test_no_cut_file_is_ever_accepted",
            "tests/fuzz/test_targets.py",
            also=fuzzers.fuzz_parsers,
        ),
        {"small": {"seconds": 10}, "full": {"seconds": 1300}},
        Control(
            "a number that is none is a refusal",
            (
                Mutation(
                    "dicom/header.py",
                    '    except ValueError as error:\n        raise Refused("HEADER_MALFORMED", "NumberOfFrames") from error\n',
                    "    except MemoryError:\n        raise\n",
                ),
            ),
            {"seconds": 5},
        ),
        short="Minutes instead of 4 hours of processor time; how much of each parser the fuzzers reach is in docs/testing.md.",
    ),
    Experiment(
        "F36",
        "No route answers 5xx or without its role.",
        "schemathesis: 0 5xx, 0 breach; every route x role",
        by_tests(
            "tests/api/test_roles.py",
            "tests/api/test_contract.py",
            "tests/security/test_schemathesis.py",
            SCHEMATHESIS_EXAMPLES="examples",
        ),
        {"small": {"examples": 12}, "full": {"examples": 200}},
        Control(
            "one route's role",
            (
                Mutation(
                    "entrypoints/api/routes_audit.py",
                    '"/v1/audit/head", routes.get_audit_head, role=Role.AUDITOR',
                    '"/v1/audit/head", routes.get_audit_head, role=Role.VIEWER',
                ),
            ),
            {"examples": 1},
        ),
    ),
    Experiment(
        "F37",
        "What identifies a patient is in no log, metric, URL or temporary file.",
        "40 canaries: 0 hits",
        by_tests("tests/security/test_canary.py", "tests/api/test_process.py::test_first_start_and_log"),
        {"small": {}},
        Control(
            "no line of the log names a patient",
            (
                Mutation(
                    "flows/intake.py",
                    "        return Answer(recorded.verdict, recorded.code, header, arrival.sha256",
                    '        log.info("intake.taken", kind=header.patient_id)\n'
                    "        return Answer(recorded.verdict, recorded.code, header, arrival.sha256",
                ),
            ),
        ),
    ),
    Experiment(
        "F38",
        "Hostile names, titles and UIDs are only text, in logs and on the page.",
        "1 line = 1 event; 0 scripts run",
        by_tests(
            "tests/api/test_page.py::test_hostile_values_are_only_text",
            "tests/api/test_page.py::test_the_source_never_parses_html",
            "tests/protocol/test_store.py::test_control_characters_in_names",
        ),
        {"small": {}},
        Control(
            "control characters are replaced",
            (
                Mutation(
                    "dicom/header.py",
                    '_CONTROL.sub("\\N{REPLACEMENT CHARACTER}", text).strip()',
                    "text.strip()",
                ),
            ),
        ),
    ),
    Experiment(
        "F39",
        "A model file that was changed in one bit, swapped or linked is refused.",
        "100 % refused",
        by_tests(PACKAGE, "tests/engine/test_signature.py"),
        {"small": {}},
        Control(
            "digests are compared",
            (
                Mutation(
                    "engine/bundle.py",
                    "    if hashlib.sha256(data).hexdigest() != spec.files.get(relative):",
                    "    if False:",
                ),
            ),
        ),
    ),
    Experiment(
        "F40",
        "Each of 1,000 random edits of the audit is found, and the first bad row is named.",
        "100 % found and named",
        by_tests("tests/ledger/test_ledger_audit.py::test_every_edit_is_found"),
        {"small": {}},
        Control(
            "each row's digest",
            (
                Mutation(
                    "ledger/audit.py", "        if _hash(last, row.at_us, fields) != row.hash:", "        if False:"
                ),
            ),
        ),
    ),
)
