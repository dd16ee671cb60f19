"""Requirement -> tests, as data (IEC 62304 5.1.1 traceability). docs/traceability.md is generated from it; a test checks each name.

A row: number, requirement, tests (a file, or file::function; a module to be run says so), and what is open.
"""

T = "tests/"
Row = tuple[str, str, tuple[str, ...], str]

# fmt: off
ROWS: tuple[Row, ...] = (
    ("2.1", "Two commands: a demo and a running service from a clone", ("e2e/test_service.py", "run: make demo (.ci/run)"), ""),
    ("2.2", "Intake by C-STORE and STOW-RS: durable before acknowledged, bounded, only listed peers", ("protocol/test_durable.py", "protocol/test_guard.py", "protocol/test_store.py", "protocol/test_spool.py", "protocol/test_header.py", "api/test_stow_http.py", "api/test_stow_parser.py"), ""),
    ("2.3", "Ledger on SQLite and PostgreSQL by one code; illegal moves refused; chained audit", ("ledger/test_ledger_guards.py", "ledger/test_ledger_database.py", "ledger/test_ledger_audit.py", "ledger/test_simulation.py", "unit/test_states.py"), ""),
    ("2.4", "Case assembly by count, quiet time or request; late images re-open or revise", ("assemble/test_assemble.py", "assemble/test_judge.py", "assemble/test_sweep.py"), ""),
    ("2.5", "Decoding in a child with limits; reduced JPEG 2000; order never matters; prepared ahead", ("analyse/test_child.py", "analyse/test_decode.py", "analyse/test_select.py", "analyse/test_case.py", "analyse/test_damaged_cache.py"), ""),
    ("2.6", "A CMAN network with honest figures, checked against golden samples", ("engine/test_network.py", "engine/test_package.py", "engine/test_readout.py", "unit/test_phantom.py"), ""),
    ("2.7", "SR and heat-map captures, read back by rule before they are stored", ("conformance/test_report.py", "conformance/test_capture.py", "conformance/test_selfcheck.py", "conformance/test_validators.py", "conformance/test_negative_controls.py"), ""),
    ("2.8", "Delivery: outbox, status classes, back-off, breaker, one side never waits for another", ("deliver/test_deliver.py", "deliver/test_answers.py", "deliver/test_web.py", "deliver/test_orthanc.py"), ""),
    ("2.9", "REST v1 equals its contract; every route for every role; a page in two languages", ("api/test_contract.py", "api/test_roles.py", "api/test_cases_http.py", "api/test_page.py", "security/test_schemathesis.py"), ""),
    ("2.10", "Command line for operators", ("e2e/test_service.py", "unit/test_operator.py"), ""),
    ("2.11", "Engineering: formats, types, import rules, words, generated documents", ("unit/test_words.py", "run: make check"), ""),
    ("3.1", "Phantoms with known truth, as DICOM", ("unit/test_phantom.py", "conformance/test_phantom.py"), ""),
    ("3.2", "Network in parts, absent modalities masked", ("engine/test_network.py", "engine/test_contribution.py", "run: models/tests/test_parts.py"), ""),
    ("3.3", "Training by one command, from phantoms or a folder of DICOM", ("unit/test_folder.py", "run: make traintest"), "not in CI: needs torch"),
    ("3.4", "Baselines on the same folds", ("unit/test_evidence.py",), "figures on 1,000 patients: docs/evidence"),
    ("3.5", "Statistics: intervals, DeLong, thresholds", ("unit/test_evidence.py",), ""),
    ("3.6", "Heat-maps against the known truth", ("unit/test_evidence.py", "analyse/test_heat.py"), ""),
    ("3.7", "Packages: digests, golden samples, manual", ("engine/test_package.py", "engine/test_signature.py", "unit/test_evidence_page.py"), ""),
    ("3.8", "Export to TensorRT", ("run: make traintest",), "needs a GPU to run"),
    ("3.9", "Speed side by side", ("run: python -m tests.bench network",), "a bench, not a test"),
    ("4.1", "Several studies make one case, in any order, over days; site policy", ("ledger/test_policy.py", "assemble/test_judge.py", "unit/test_states.py"), ""),
    ("4.2", "Siblings and priors fetched from a PACS, within bounds", ("fetch/test_fetch.py", "fetch/test_choose.py", "fetch/test_hostile.py", "fetch/test_real_orthanc.py", "fetch/test_doors.py", "unit/test_hours.py"), ""),
    ("4.3", "Views and phases picked without trust in descriptions", ("analyse/test_picking.py", "analyse/test_dynamic_order.py", "unit/test_preprocess_facts.py", "unit/test_preprocess_names.py"), ""),
    ("4.4", "Input gate; what is not analysed says so", ("unit/test_gate.py", "analyse/test_gate_case.py", "conformance/test_not_performed.py"), ""),
    ("4.5", "Late and changed input makes revisions; retraction", ("ledger/test_changes.py", "analyse/test_revisions.py", "deliver/test_retract.py", "conformance/test_rejection.py"), ""),
    ("4.6", "Why did my study not run", ("why/test_situations.py",), ""),
    ("4.7", "Contribution of each modality, abstention", ("engine/test_contribution.py", "analyse/test_told.py"), ""),
    ("4.8", "Object set by profile", ("conformance/test_air.py", "conformance/test_maps.py", "conformance/test_charset.py"), ""),
    ("4.9", "Heat-maps that teach", ("analyse/test_heat.py", "conformance/test_capture.py"), ""),
    ("4.10", "Proof of landing", ("deliver/test_prove.py", "deliver/test_query.py", "ledger/test_ledger_proof.py"), ""),
    ("4.11", "Profiles and a viewer matrix", ("viewers/test_matrix.py", "run: make viewers"), ""),
    ("4.12", "Words in two languages, none claims too much", ("conformance/test_texts.py", "api/test_summary_http.py"), "no clinician has read them"),
    ("4.13", "Signed webhooks, allow-listed", ("deliver/test_webhooks.py", "ledger/test_ledger_notice.py"), ""),
    ("5.1", "Container images", ("deploy/test_compose.py", "run: make e2e-compose"), ""),
    ("5.2", "A hospital in a box", ("deploy/test_compose.py", "run: make e2e-compose"), ""),
    ("5.3", "Celery rings, the ledger decides; nothing starves", ("queue/test_queue.py", "queue/test_broker.py", "assemble/test_assemble.py", "deliver/test_deliver.py"), ""),
    ("5.4", "Many hosts", ("queue/test_queue.py", "ledger/test_ledger_processes.py", "unit/test_owner.py"), ""),
    ("5.5", "TensorRT runner, with a passport for each plan; pixels by nvImageCodec", ("engine/test_plans.py", "engine/test_passport.py", "analyse/test_nvimg.py"), "tried on a played GPU, nvImageCodec on its CPU back end"),
    ("5.6", "GPU bench", ("run: make bench-gpu",), "without a GPU it prints the CPU rows"),
    ("5.7", "Logs, metrics, health, alerts", ("unit/test_words.py", "api/test_process.py", "unit/test_pulse.py", "ops/test_probe.py", "ops/test_traces.py", "ops/test_backup.py"), ""),
    ("5.8", "Kubernetes", ("deploy/test_kubernetes.py",), "never run on a cluster"),
    ("5.9", "Capacity by simulation", ("bench/test_scaling.py",), ""),
    ("6.1", "One reliability bench", ("unit/test_reliability_bench.py", "run: make bench-reliability"), ""),
    ("6.2", "43 experiments", ("unit/test_reliability_bench.py", "run: make bench-reliability"), "docs/reliability.md names those that were not run"),
    ("6.3", "Network guard: silent, half-open, slow, lying and flooding peers", ("protocol/test_guard.py", "protocol/test_tls.py", "fuzz/test_targets.py"), "10^6 mutated PDUs in one run: not done"),
    ("6.4", "Parsers under fuzzing, generated requests, bombs", ("fuzz/test_targets.py", "security/test_schemathesis.py", "security/test_bombs.py", "security/test_corpora.py", "protocol/test_header.py", "run: make corpora"), "4 CPU-hours of atheris: minutes only, docs/security-checks.md"),
    ("6.5", "TLS and identity", ("protocol/test_tls.py", "deliver/test_tls_out.py", "api/test_https.py", "api/test_tokens.py", "api/test_keys_command.py", "api/test_auth.py", "api/test_roles.py", "api/test_gate.py"), ""),
    ("6.6", "Nothing of a patient leaks", ("security/test_canary.py", "unit/test_words.py", "api/test_process.py", "ledger/test_retention.py"), ""),
    ("6.7", "Integrity of models and audit", ("engine/test_signature.py", "engine/test_package.py", "ledger/test_ledger_audit.py"), ""),
    ("6.8", "Supply chain papers that are checked", ("security/test_papers.py", "security/test_advisories.py", "run: make advisories"), "the databases that could be had are eight months old and more"),
    ("6.9", "Two decoders for every transfer syntax; decoding confined", ("security/test_decoders.py", "analyse/test_child.py"), ""),
)
# fmt: on
POINTS = {"2": 11, "3": 9, "4": 13, "5": 9, "6": 9}


def page() -> str:
    """docs/traceability.md."""
    lines = [
        "# Requirements and their tests",
        "",
        "Generated from `tests/security/requirements.py` by `make docs`; `tests/security/test_papers.py` checks that no point is missing and",
        "every test named is there. The numbers are the project's issues and their points. *open* names what no test covers.",
        "",
        "| no. | requirement | tests | open |",
        "| --- | --- | --- | --- |",
    ]
    for number, words, tests, missing in ROWS:
        names = "<br>".join(f"`{name}`" if name.startswith("run:") else f"[{name}](../tests/{name})" for name in tests)
        lines.append(f"| {number} | {words} | {names or 'none'} | {missing} |")
    return "\n".join([*lines, ""])
