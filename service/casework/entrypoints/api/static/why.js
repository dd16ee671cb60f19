// "Why did my study not run?": where it stands, what to do, what happened in order, and what the PACS says.
import { ask, may } from "/static/api.js";
import { deliveryTable, findingTable, reasonBox, studyTable, waitWords } from "/static/case.js";
import { badge, chips, familyTone, h, put, t, table, td, fit, time, toast } from "/static/dom.js";
import { associationTable, receiptTable } from "/static/views.js";

export function whyView(term) {
  const element = h("div", { "aria-live": "polite" }, h("p", { class: "empty" }, t("loading")));
  let shown = "", asked = null;
  const refresh = async (force = false) => {
    const found = asked || await ask("/v1/why", { method: "POST", body: { q: term } });
    const text = JSON.stringify(found);
    if (text === shown && !force) return;
    shown = text;
    put(element, answer(found, askPacs, fetchIt));
  };
  const askPacs = async () => {
    try { asked = await ask("/v1/why", { method: "POST", body: { q: term, ask_pacs: true } }); } catch (error) { toast(error.message, true); }
    await refresh(true);
  };
  const fetchIt = async () => {
    try { await ask("/v1/fetches", { method: "POST", body: { term } }); asked = null; toast(t("done")); } catch (error) { toast(error.message, true); }
    await refresh(true);
  };
  return { element, refresh };
}

function answer(found, askPacs, fetchIt) {
  const counts = Object.entries(found.receipt_counts).map(([name, count]) => h("span", { class: "chip" }, `${t(`verdict_${name}`)} ${count}`));
  const silent = found.processes.filter((each) => !each.alive);
  return [
    h("section", { class: "panel" }, h("h2", {}, `${t("why_title")}: ${found.query}`),
      h("p", { class: found.matched_by ? "muted small" : "empty" }, found.matched_by ? t(`by_${found.matched_by}`) : t("why_nothing")),
      h("p", {}, h("span", { class: "chip" }, `${t("stands_at")}: ${found.stage_text}`)), reasonBox(found.next),
      silent.map((each) => h("p", { class: "small" }, `! ${each.door}: ${t("silent_since")} `, time(each.beat_at), each.reason ? ` ${each.reason.text}` : "")),
      !found.matched_by && h("p", { class: "muted small" }, `${t("listens_as")} ${found.listener.ae_title} ${found.listener.host}:${found.listener.port}`),
      !found.cases.length && may("operator") && h("div", { class: "actions" },
        h("button", { type: "button", data: { key: "ask-pacs" }, onclick: askPacs }, t("ask_pacs")),
        found.pacs.some((each) => each.studies.length) && h("button", { type: "button", data: { key: "fetch" }, onclick: fetchIt }, t("fetch_it"))),
      found.pacs.map(holding)),
    found.cases.map(whyCase),
    found.timeline.length ? h("section", { class: "panel" }, h("h3", {}, found.matched_by ? t("timeline") : t("turned_away")), h("ol", { class: "timeline" }, found.timeline.map(step))) : null,
    found.receipts.length ? h("section", { class: "panel" }, h("h3", {}, t("why_arrivals")), h("div", { class: "chips" }, counts), receiptTable(found.receipts.slice(0, 50))) : null,
    may("admin") && found.associations.length ? h("section", { class: "panel" }, h("h3", {}, t("associations")), associationTable(found.associations)) : null];
}

function step(moment) {
  const about = [moment.actor, moment.subject, ...Object.entries(moment.detail).filter(([name]) => name !== "from" && name !== "to").map(([name, value]) => `${name} ${value}`)].filter(Boolean).join(" · ");
  return h("li", { class: moment.reason ? familyTone(moment.reason.family) : "" }, time(moment.at), h("div", {}, `${moment.stage_text}: ${moment.text}`, h("div", { class: "muted small" }, about)));
}

function holding(each) {
  return h("div", {}, h("p", { class: "small" }, `${each.destination}: ${each.reason.text}`),
    each.studies.length ? table([t("date"), t("accession"), t("study"), t("images")], each.studies.map((study) => [fit(study.study_date), td(study.accession_number), td(study.study_instance_uid), td(h("div", { class: "chips" }, chips(study.modalities)))])) : null);
}

function queueWords(queue) {
  const estimate = queue.from_s === null ? t("no_estimate") : t("estimate", { from: Math.ceil(queue.from_s), to: Math.ceil(queue.to_s), runs: queue.runs });
  return h("p", { class: "small" }, `${t("ahead", { ahead: queue.ahead, running: queue.running, workers: queue.workers })} ${estimate}`);
}

function whyCase(found) {
  const wait = found.waiting_until && h("p", { class: "small" }, found.waiting_for.length ? waitWords(found) : [`${t("waiting_until")}: `, time(found.waiting_until)]);
  return h("section", { class: "panel" },
    h("div", { class: "bar" }, badge(found.shown.code, found.shown.text), h("a", { class: "link", href: `#/cases/${encodeURIComponent(found.id)}` }, t("open_case"))),
    reasonBox(found.reason, "", wait), reasonBox(found.blocked), found.queue && queueWords(found.queue), h("h3", { class: "spaced" }, t("studies")), studyTable(found.studies),
    found.findings.length ? [h("h3", { class: "spaced" }, t("findings")), findingTable(found.findings)] : null,
    found.deliveries.length ? [h("h3", { class: "spaced" }, t("where")), deliveryTable(found.deliveries)] : null);
}
