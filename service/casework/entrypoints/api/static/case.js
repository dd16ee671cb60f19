// One case: state in words, result per side, heat-maps, where it went, timeline.
import { ask, download, may, once } from "/static/api.js";
import { badge, bytes, chips, familyTone, fit, h, known, t, table, td, time, toast, tone, wide } from "/static/dom.js";
import { loadSummary, reading, summaryPanel } from "/static/reading.js";

const EXTENSIONS = { "application/dicom": "dcm", "image/png": "png", "application/json": "json" };
// No green: a negative of a model is not an all-clear.
const OUTCOMES = { positive: "is-warn", negative: "is-wait", indeterminate: "is-idle", insufficient: "is-idle" };
const ALLOWED = {
  start: ["receiving", "stable"],
  retry: ["needs_attention", "rejected", "closed", "queued", "delivering"],
  resend: ["delivered", "needs_attention"],
  cancel: ["receiving", "stable", "queued", "rejected", "needs_attention"],
};

export async function loadCase(id) {
  const path = `/v1/cases/${encodeURIComponent(id)}`;
  const [found, events, results] = await Promise.all([ask(path), ask(`${path}/events`), ask(`${path}/results`)]);
  return { found, events: events.items, ...results, summary: await loadSummary(found) };
}

export function caseView(data, reload) {
  const stands = !data.found.retraction;
  return [head(data.found, reload), stands && result(data.found), decisions(data.found, reload), notes(data.found), stands && reading(data.artefacts), summaryPanel(data.found, data.summary, reload), studies(data.found),
    where(data.deliveries), files(data.artefacts), timeline(data.events), details(data.found)];
}

export function reasonBox(reason, detail, extra) {
  if (!reason) return null;
  return h("div", { class: `reason ${familyTone(reason.family)}` },
    h("p", {}, reason.text), reason.next && h("p", { class: "muted small" }, reason.next),
    h("p", { class: "code muted" }, reason.code, detail ? ` · ${detail}` : ""), extra);
}

function head(found, reload) {
  return h("section", { class: "panel" },
    h("div", { class: "bar" },
      h("div", {}, h("h2", {}, found.patient_id || t("unknown_patient")),
        h("div", { class: "chips" }, found.accession_numbers.map((each) => h("span", { class: "chip" }, each)), chips(found.modalities),
          found.priority === "stat" && h("span", { class: "chip stat" }, t("stat")),
          found.revision > 1 && h("span", { class: "chip" }, `${t("revision")} ${found.revision}`),
          !found.newest && h("a", { class: "chip old", href: `#/cases/${encodeURIComponent(found.newest_id)}` }, t("replaced")))),
      h("div", {}, badge(found.shown.code, found.shown.text), h("div", { class: "muted small" }, `${t("since")} `, time(found.changed_at)))),
    reasonBox(found.reason, found.detail, found.waiting_for.length ? h("p", { class: "small" }, waitWords(found)) : null), actions(found, reload));
}

export const waitWords = (found) => [`${t("waits_for", { what: found.waiting_for.join(", ") })} ${t("since")} `, time(found.waiting_since), ` ${t("until")} `, time(found.waiting_until)];

function actions(found, reload) {
  if (!may("operator")) return null;
  const act = async (name) => {
    if (name === "cancel" && !window.confirm(t("cancel_sure"))) return;
    try {
      if (name === "start") await ask("/v1/analyses", { method: "POST", body: { study_instance_uids: found.study_instance_uids }, headers: { "Idempotency-Key": once() } });
      else await ask(`/v1/cases/${encodeURIComponent(found.id)}/${name}`, { method: "POST" });
      toast(t("done"));
    } catch (error) { toast(error.message, true); }
    reload();
  };
  const names = Object.keys(ALLOWED).filter((name) => ALLOWED[name].includes(found.state) && (name !== "start" || found.study_instance_uids.length));
  const main = names.find((name) => name !== "cancel");
  const buttons = names.map((name) => h("button", { type: "button", class: name === main ? "primary" : "", data: { key: `do-${name}` }, onclick: () => act(name) }, t(name)));
  return buttons.length ? h("p", { class: "actions" }, buttons) : null;
}

function result(found) {
  if (!found.sides.length) return null;
  return h("section", { class: "panel" },
    h("h3", {}, t("result")),
    h("div", { class: "sides" }, ["R", "L"].map((name) => found.sides.find((side) => side.side === name)).filter(Boolean).map((each) => side(each, found.disclaimer))));
}

function side(found, disclaimer) {
  const strongest = Math.max(0.001, ...Object.values(found.evidence).map(Math.abs));
  const shares = Object.entries(found.evidence).map(([name, value]) => [
    h("span", {}, name),
    h("span", { class: "share", role: "img", "aria-label": t(value < 0 ? "against" : "for_") }, h("i", { class: value < 0 ? "against" : "", "left%": value < 0 ? 50 - (50 * -value) / strongest : 50, "width%": (50 * Math.abs(value)) / strongest })),
    h("span", {}, `${value < 0 ? "−" : "+"}${Math.abs(value).toFixed(2)}`)]);
  return h("article", { class: `side ${OUTCOMES[found.outcome]}` },
    h("h3", {}, t(`side_${found.side}`)), h("p", { class: "big" }, t(found.outcome)),
    found.probability !== null && [h("p", { class: "number" }, `${t("probability")} ${found.shown} %`), h("p", { class: "small" }, `${t("band")}: ${found.band}`),
      h("div", { class: "meter", "aria-hidden": "true" }, h("i", { "width%": 100 * found.probability }))],
    shares.length ? [h("p", { class: "muted small" }, t("contribution")), h("div", { class: "shares" }, shares)] : null,
    h("p", { class: "muted small" }, found.modalities.length ? `${t("used")}: ${found.modalities.join(", ")}` : t("no_modalities")),
    h("span", { class: "unverified" }, disclaimer));
}

// What a person has to decide: other bytes under a known UID, a side or a patient in doubt; and what was taken out.
function decisions(found, reload) {
  const open = found.doubts.filter((each) => !each.decision);
  if (!open.length && !found.exclusions.length) return null;
  const act = async (decision) => {
    if (!window.confirm(t(`${decision}_sure`))) return;
    try {
      await ask(`/v1/cases/${encodeURIComponent(found.id)}/decisions`, { method: "POST", body: { decision, seen: open.map((each) => each.id) } });
      toast(t("done"));
    } catch (error) { toast(error.message, true); }
    reload();
  };
  const button = (decision) => h("button", { type: "button", data: { key: `do-${decision}` }, onclick: () => act(decision) }, t(decision));
  const bytes_ = open.every((each) => each.sha256);
  return h("section", { class: "panel" }, h("h3", {}, t("doubts")),
    open.length ? table([t("reason"), t("object"), t("when")], open.map((each) => [wide(each.reason.text, h("div", { class: "muted small" }, each.reason.next), h("div", { class: "code muted" }, each.reason.code)), td(h("span", { class: "code" }, each.subject)), fit(time(each.at))])) : null,
    open.length && may("operator") ? h("p", { class: "actions" }, bytes_ && button("accepted"), button("dismissed")) : null,
    found.exclusions.length ? table([t("taken_out"), t("object"), t("when")], found.exclusions.map((each) => [wide(each.reason.text, each.detail && h("div", { class: "muted small" }, each.detail), h("div", { class: "code muted" }, `${each.reason.code} · ${each.actor}`)), td(h("span", { class: "code" }, each.sop_instance_uid)), fit(time(each.at))])) : null);
}

function notes(found) {
  if (!found.findings.length) return null;
  return h("section", { class: "panel" }, h("h3", {}, t("findings")), findingTable(found.findings));
}

export function findingTable(findings) {
  return table([t("reason"), t("object"), t("when")], findings.map((each) => [
    wide(each.reason.text, each.detail && h("div", { class: "muted small" }, each.detail), h("div", { class: "code muted" }, each.reason.code)), td(h("span", { class: "code" }, each.subject)), fit(time(each.at))]));
}

function studies(found) {
  return h("section", { class: "panel" }, h("h3", {}, t("studies")), studyTable(found.studies));
}

export function studyTable(rows) {
  return table([t("accession"), t("date"), t("images"), t("expected"), t("study")], rows.map((each) => [
    fit(each.accession_number), fit(each.study_date), td(h("div", { class: "chips" }, chips(each.modalities))), fit(each.expected === null ? "–" : `${each.received} / ${each.expected}`), td(h("span", { class: "code" }, each.study_instance_uid))]));
}

function where(deliveries) {
  if (!deliveries.length) return null;
  return h("section", { class: "panel" }, h("h3", {}, t("where")), tally(deliveries),
    h("details", { data: { key: "where" } }, h("summary", {}, t("each", { n: deliveries.length })), deliveryTable(deliveries)));
}

// One line a destination: how many objects are in which state, the ones that need a person first.
function tally(deliveries) {
  const order = ["dead", "commit_failed", "unknown", "retry_wait", "sending", "pending", "stored_with_warning", "stored", "committed"];
  return [...new Set(deliveries.map((each) => each.destination))].map((place) => {
    const own = deliveries.filter((each) => each.destination === place);
    const counts = order.map((state) => [state, own.filter((each) => each.state === state)]).filter(([, found]) => found.length);
    return h("p", { class: "tally" }, h("strong", {}, place), counts.map(([state, found]) => h("span", {}, badge(state, `${found.length} ${t(`d_${state}`)}`), found[0].reason && h("span", { class: "muted small" }, ` ${found[0].reason.text}`))));
  });
}

export function deliveryTable(deliveries, withCase = false) {
  const heads = [t("destination"), t("object"), t("state"), t("tries"), t("answer"), t("when")];
  return table(withCase ? [...heads, t("case_id")] : heads, deliveries.map((each) => [
    fit(each.destination), td(kind(each.kind), each.label && h("div", { class: "muted small" }, each.label)),
    td(badge(each.state, t(`d_${each.state}`)), each.reason && h("div", { class: "muted small" }, each.reason.text)), fit(String(each.attempt)), td(each.status), fit(time(each.changed_at)),
    ...(withCase ? [fit(h("a", { href: `#/cases/${encodeURIComponent(each.case_id)}` }, each.case_id.slice(0, 8)))] : [])]));
}

const kind = (name) => (known(`kind_${name}`) ? t(`kind_${name}`) : name);

function files(artefacts) {
  if (!artefacts.length) return null;
  const save = async (each) => {
    try { await download(each.url, `casework-${each.id}.${EXTENSIONS[each.media_type] || "bin"}`); } catch (error) { toast(error.message, true); }
  };
  return h("section", { class: "panel" }, h("details", { class: "flat", data: { key: "files" } }, h("summary", {}, `${t("files")} (${artefacts.length})`), table([t("file"), t("object"), t("size"), ""], artefacts.map((each) => [
    td(kind(each.kind)), td(each.label), fit(bytes(each.size)),
    fit(h("button", { type: "button", class: "link", data: { key: `save-${each.id}` }, "aria-label": `${t("download")}: ${kind(each.kind)} ${each.label}`, onclick: () => save(each) }, t("download")))]))));
}

function timeline(events) {
  const all = [...events].reverse();
  const main = all.filter((event) => !(event.event === "job.moved" || event.event === "job.made" || (event.event === "delivery.moved" && ["sending", "pending"].includes(event.detail.to))));
  const lines = together(main);
  return h("section", { class: "panel" }, h("h3", {}, t("timeline")), h("ol", { class: "timeline" }, lines.map(step)),
    all.length > lines.length && h("details", { data: { key: "steps" } }, h("summary", {}, t("steps", { n: all.length })), h("ol", { class: "timeline" }, all.map(step))));
}

// Steps of one kind that follow each other are one line: its last time, and how many.
function together(events) {
  const kind_ = (event) => JSON.stringify([event.event, event.detail.to, event.detail.destination, event.reason?.code, event.actor]);
  const lines = [];
  for (const event of events) {
    const before = lines.at(-1);
    if (!before || before.kind !== kind_(event)) lines.push({ kind: kind_(event), event, times: 1, count: event.detail.count });
    else { before.times += 1; before.count += event.detail.count; }
  }
  return lines.map(({ event, times, count }) => (times === 1 ? event : { ...event, times, detail: { ...event.detail, ...(Number.isFinite(count) ? { count } : {}) } }));
}

function step(event) {
  const { detail } = event;
  const prefix = { "job.moved": "j_", "delivery.moved": "d_", "notice.moved": "n_", "fetch.order": "f_", "fetch.candidate": "f_" }[event.event] ?? "";
  const word = (value) => (typeof value === "string" && known(prefix + value) ? t(prefix + value) : value);
  const name = `e_${event.event}`;
  const words = known(name) ? t(name, { ...detail, from: word(detail.from), to: word(detail.to) }) : event.event;
  const more = [event.reason?.text, typeof detail.detail === "string" ? detail.detail : "", detail.status, detail.attempt && !event.times ? t("try_", { n: detail.attempt }) : "", event.times && !Number.isFinite(detail.count) ? `× ${event.times}` : ""].filter(Boolean);
  const colour = event.event === "case.moved" || event.event === "delivery.moved" ? tone(detail.to) : event.reason ? familyTone(event.reason.family) : "";
  return h("li", { class: colour }, time(event.at), h("div", {}, h("span", {}, words), more.length ? h("div", { class: "muted small" }, more.join(" · ")) : null), h("span", { class: "code muted" }, event.actor));
}

function details(found) {
  const facts = [[t("case_id"), found.id], [t("opened"), time(found.opened_at)], [t("last_image"), time(found.last_image_at)]];
  if (found.model) facts.push([t("model"), `${found.model.name} ${found.model.version} · ${found.model.engine}`], ["sha256", found.model.sha256]);
  return h("section", { class: "panel" }, h("h3", {}, t("details")), h("dl", { class: "facts" }, facts.map(([name, value]) => [h("dt", {}, name), h("dd", { class: "code" }, value)])));
}
