"""Threats by STRIDE, each with what keeps it out and the tests that show it, as data. docs/threat-model.md is generated from it."""

Row = tuple[str, str, str, str, tuple[str, ...]]
S, TA, R, IN, D, E = (
    "Spoofing",
    "Tampering",
    "Repudiation",
    "Information disclosure",
    "Denial of service",
    "Elevation of privilege",
)

# fmt: off
ROWS: tuple[Row, ...] = (
    ("DICOM port", S, "A stranger sends under a modality's AE title", "Title, address and, with mTLS, the certificate's name must match one row", ("protocol/test_guard.py::test_allow_list", "protocol/test_tls.py::test_title_address_and_certificate_belong_together")),
    ("DICOM port", S, "A stolen certificate still opens the door", "The authority's list of revoked ones, read again when it changes; an overdue list lets nobody in", ("protocol/test_tls.py::test_a_revoked_certificate_is_refused_from_the_next_connection_on",)),
    ("DICOM port", IN, "Images are read or changed on the wire", "TLS 1.2/1.3 by BCP 195; plain is never upgraded; the plain port can be closed", ("protocol/test_tls.py::test_old_versions_and_weak_suites_are_refused", "protocol/test_tls.py::test_plain_dicom_on_the_tls_port_and_tls_on_the_plain_port")),
    ("DICOM port", D, "Silent, slow or half-open peers hold the door", "One selector thread as far as a whole request, handshake included, with a deadline; caps by address", ("protocol/test_guard.py::test_honest_echo_among_500_silent_peers", "protocol/test_tls.py::test_200_half_open_handshakes", "protocol/test_guard.py::test_silent_and_dripping_peers_are_dropped")),
    ("DICOM port", D, "A listed peer, or one behind its address, takes every place or sends without end", "Places by title, address and certificate, one kept for each listed title; classes and a rate by row, answered later, never lost", ("protocol/test_guard.py::test_peers_behind_one_address_keep_places_of_their_own", "protocol/test_guard.py::test_a_row_names_what_its_peer_may_send_and_how_fast")),
    ("DICOM port", D, "Lengths that announce gigabytes", "A cap for each kind of PDU before a byte is read", ("protocol/test_guard.py::test_lying_first_pdu_is_cut_at_once", "fuzz/test_targets.py::test_mutated_inputs")),
    ("Intake", TA, "A UID that is a path", "No name from outside is a file's name; UIDs are checked by grammar", ("fuzz/test_targets.py::test_mutated_inputs", "security/test_canary.py::test_no_word_of_a_patient_leaves")),
    ("Intake", D, "Bombs: deflate, nesting, dimensions, offsets", "Bounded walk of the header; ratio and byte caps", ("security/test_bombs.py::test_bombs_are_refused", "protocol/test_header.py::test_deflate_bombs")),
    ("Intake", TA, "Other bytes under a known UID", "The first stand; the others are kept aside for a person", ("ledger/test_changes.py",)),
    ("Intake", D, "A full disk loses what was acknowledged", "Watermarks, fsync before the answer, the first failed fsync is final", ("protocol/test_durable.py::test_disk_watermarks", "protocol/test_durable.py::test_failed_fsync_is_final")),
    ("Decoding", E, "A codestream takes over a native decoder", "A child without network (name space and a filter of the kernel), with caps on memory and time, without the parent's handles", ("analyse/test_child.py::test_a_process_gives_up_the_network_for_good", "analyse/test_child.py::test_a_child_has_nothing_that_it_does_not_need", "analyse/test_child.py::test_a_crash_is_one_code_and_the_next_task_runs")),
    ("Decoding", TA, "A decoder gives plausible wrong pixels", "A second decoder of another origin agrees bit for bit", ("security/test_decoders.py::test_lossless_syntaxes_bit_for_bit", "security/test_decoders.py::test_real_files_bit_for_bit")),
    ("REST", S, "Forged or borrowed tokens", "Issuer, audience and algorithms pinned; keys by id from one address; nothing of a token decides", ("api/test_tokens.py::test_hostile_tokens",)),
    ("REST", S, "Stolen or old API keys", "Digests at rest, ends, rotation, revocation within a second, day of last use", ("api/test_keys_command.py::test_a_key_is_added_rotated_and_revoked",)),
    ("REST", E, "A route without its role", "No route can be added without one; every route was tried by every role", ("api/test_roles.py::test_route_and_role", "api/test_roles.py::test_an_auditor_changes_nothing")),
    ("REST", S, "A page elsewhere speaks to the API (DNS rebinding, CSRF)", "Host header; bearer only, no cookies; CSP without exceptions for scripts", ("api/test_keys_command.py::test_a_foreign_host_is_refused", "api/test_gate.py::test_security_headers_on_every_response")),
    ("REST", D, "Slow heads, endless bodies, many requests", "Deadlines for head and body, caps, buckets by key and address", ("api/test_gate.py::test_silent_and_slow_heads_are_dropped", "api/test_gate.py::test_rate_limit", "api/test_gate.py::test_malformed_heads_end_the_connection")),
    ("REST", D, "A silent issuer of tokens", "Its keys are fetched in a thread of their own, with a deadline", ("api/test_tokens.py::test_a_silent_issuer_holds_nobody_up",)),
    ("Page", TA, "A tag's value runs as a script", "Text nodes only, CSP", ("api/test_page.py::test_hostile_values_are_only_text", "api/test_page.py::test_the_source_never_parses_html")),
    ("Ledger", TA, "Somebody edits the database", "Triggers, hash chain, head said in the log every hour and kept elsewhere", ("assemble/test_sweep.py::test_the_audits_head_is_said_every_hour_and_proves_the_chain", "ledger/test_ledger_audit.py::test_every_edit_is_found", "ledger/test_ledger_audit.py::test_a_chain_made_anew_is_convicted_by_a_kept_head")),
    ("Ledger", R, "Nobody knows who decided", "Every change writes its row with its actor in the same transaction", ("ledger/test_ledger_audit.py::test_every_state_change_has_its_row",)),
    ("Model", TA, "Weights are swapped or changed", "Digests, Ed25519 signature, golden samples, an hourly look, digest in every SR", ("engine/test_signature.py::test_everything_else_is_refused", "engine/test_signature.py::test_the_worker_notices_a_change", "engine/test_package.py::test_one_flipped_bit_in_any_file_is_refused")),
    ("Model", TA, "An old package with a known fault comes back", "Versions only rise unless one is named, which is audited", ("engine/test_signature.py::test_no_step_back",)),
    ("Model", E, "A graph reads other files, or a pickle runs", "ONNX from memory, external data and links refused, no pickles, no torch", ("engine/test_package.py::test_a_graph_with_external_data_is_refused", "engine/test_package.py::test_a_golden_sample_with_pickled_objects_is_refused")),
    ("Queue", E, "A foreign message makes a worker run something", "Only numbers of jobs are read; the ledger decides whether one may run", ("queue/test_broker.py::test_foreign_and_corrupt_messages_are_dropped", "queue/test_broker.py::test_an_unsafe_redis_is_refused")),
    ("Delivery", S, "A stranger stands where the PACS was", "Pinned authority and name; nothing is sent before", ("deliver/test_tls_out.py::test_a_destination_that_is_not_believed_gets_nothing", "deliver/test_tls_out.py::test_stow_over_https")),
    ("Delivery", D, "A PACS that hangs holds up another", "Deadlines, a worker and a breaker for each", ("deliver/test_tls_out.py::test_a_peer_that_hangs_in_its_handshake_is_left", "deliver/test_deliver.py")),
    ("Webhooks", IN, "An address that leads inside (SSRF)", "Allow-list, judged addresses, no redirects, no proxy", ("deliver/test_webhooks.py::test_addresses", "deliver/test_webhooks.py::test_redirects_are_not_followed")),
    ("Fetch", TA, "A PACS answers with another patient's images", "Each is compared with what was asked for", ("fetch/test_hostile.py",)),
    ("Logs, metrics, bundle", IN, "A name or number of a patient leaves", "Fields by allow-list; values hidden in errors; Annex E and a list of what may be said", ("security/test_canary.py::test_no_word_of_a_patient_leaves", "unit/test_words.py::test_a_log_line_holds_only_allowed_fields")),
    ("Files", IN, "Another user of the machine reads images, keys or cores", "0600 and 0700, no core dumps, keys refused when open to others", ("security/test_canary.py::test_no_word_of_a_patient_leaves", "protocol/test_tls.py::test_a_key_that_others_can_read_is_refused")),
    ("Files", IN, "Images stay for years after anybody needed them", "Retention by settings: ledger first, then the bytes, audited with counts; never what is unsent, unproved, open, in doubt or on hold", ("ledger/test_retention.py::test_everything_of_an_old_delivered_case_goes_and_says_so", "ledger/test_retention.py::test_what_may_be_needed_stays", "ledger/test_retention.py::test_a_crash_between_ledger_and_disk_leaves_no_lie")),
    ("Supply chain", TA, "A package of another origin is installed", "Locked by hash; a reason for each direct one", ("security/test_papers.py::test_every_dependency_is_locked_and_has_a_reason",)),
)
# fmt: on
HEAD = """# Threat model

Generated from `tests/security/threats.py` by `make docs`; a test checks that every test named is there. Research use; not a medical device.

## What is protected

Patients' images and identities (spool, ledger), the truth of results (a wrong or missing one harms), the ability to answer, keys and certificates.
Attackers thought of: a compromised modality or workstation in the hospital's network, a malicious file that reaches a modality or PACS,
somebody with an account of too few rights, somebody with write access to the model's folder or the database. Not: root on the service's machine, an
attacker inside the CPU or the hypervisor, physical access to running memory.

## Data flow

```mermaid
flowchart LR
  subgraph hospital
    M[modality] -- "C-STORE, TLS" --> L
    P[(PACS)] -- "C-STORE, TLS" --> L
    B[browser or RIS] -- "HTTPS, key or token" --> A
    O[token issuer] -- "public keys" --> A
  end
  subgraph service
    L[listener] --> SP[(spool)] & LE[(ledger)]
    A[api] --> SP & LE
    K[keeper] --> LE
    K -- "job numbers" --> Q[(Redis)]
    Q --> W
    W[inference worker] --> SP & LE
    W -- "pixels" --> C[decode child: no network, limits]
    PK[(model package)] -- "digest, signature" --> W
    V[deliver worker] --> SP & LE
    F[fetch worker] --> LE
  end
  V -- "C-STORE or STOW, TLS" --> P
  F -- "C-FIND, QIDO, WADO" --> P
  V -- "signed webhook" --> X[program]
```

Trust ends at every arrow into *service* from *hospital*, at the arrow between worker and decode child, and at the model package.

## Threats

| where | kind | threat | what keeps it out | shown by |
| --- | --- | --- | --- | --- |
"""
TAIL = """
## Left open

- No antivirus, no host hardening: the machine's. Volumes are not encrypted by the service; LUKS or the platform's encryption is expected.
- DICOM user identity (PS3.7 D.3.3.7) is not evaluated: title, address and certificate decide.
- OCSP is not asked, and certificates of destinations are not checked for revocation; peers' are, by a list in a file (`tls.client_crl_file`).
- Retention removes bytes. The ledger's rows, with Patient ID and accession number, and its audit are never removed; neither is what was kept aside.
- Audit rows are not sent as DICOM audit messages (PS3.15 A.5); reading the audit leaves no row of its own.
- No penetration test by others. No signature of container images.
"""


def page() -> str:
    """docs/threat-model.md."""
    lines = []
    for where, kind, threat, against, tests in ROWS:
        names = "<br>".join(f"[{name.rpartition('::')[2]}](../tests/{name.partition('::')[0]})" for name in tests)
        lines.append(f"| {where} | {kind} | {threat} | {against} | {names} |")
    return HEAD + "\n".join(lines) + "\n" + TAIL
