// The sections of the page. Each is { element, refresh }: refresh asks again and changes only what changed.
import { ask, may } from "/static/api.js";
import { caseView, deliveryTable, loadCase } from "/static/case.js";
import { badge, bytes, chips, familyTone, fit, h, put, t, table, td, time, toast, tone, wide } from "/static/dom.js";

const STATES = ["receiving", "stable", "queued", "running", "rendered", "delivering", "delivered", "rejected", "needs_attention", "superseded", "closed", "retracted"];
const VERDICTS = ["accepted", "duplicate", "kept_aside", "refused"];
const PAGE = 50;

function keeper(holder, load, draw) {
  let shown = "";
  return async (force = false) => {
    const data = await load();
    const text = JSON.stringify(data);
    if (text === shown && !force) return;
    shown = text;
    put(holder, draw(data));
  };
}

export function casesView(chosen) {
  let state = "", limit = PAGE, open = chosen;
  const rows = h("div", { class: "rows" });
  const detail = h("div", { class: "detail" });
  const select = h("select", { "aria-label": t("state"), onchange: () => { state = select.value; list(true).catch(fail); } },
    h("option", { value: "" }, t("all_states")), STATES.map((name) => h("option", { value: name }, t(name))));
  const element = h("div", { class: "split" }, h("section", { class: "list", "aria-label": t("cases") }, h("div", { class: "bar" }, h("h2", {}, t("cases")), select), rows), detail);

  const list = keeper(rows, () => ask(`/v1/cases?limit=${limit}${state ? `&state=${state}` : ""}`), (page) => [
    page.items.map((item) => row(item, item.id === open)),
    !page.items.length && h("p", { class: "empty" }, state ? t("no_match") : t("no_cases")),
    page.next_cursor && limit < 200 && h("button", { type: "button", data: { key: "more" }, onclick: () => { limit += PAGE; list(true).catch(fail); } }, t("more"))]);
  const show = keeper(detail, () => (open ? loadCase(open) : null), (data) => (data
    ? [h("a", { class: "back", href: "#/cases" }, `← ${t("back")}`), caseView(data, () => refresh())]
    : h("p", { class: "panel empty" }, t("choose"))));
  const refresh = async (force) => { await Promise.all([list(force), show(force)]); };
  const choose = async (id) => {
    open = id;
    element.classList.toggle("open", Boolean(id));
    for (const each of rows.querySelectorAll(".row")) each.setAttribute("aria-current", String(each.dataset.id === id));
    await show();
  };
  element.classList.toggle("open", Boolean(open));
  rows.addEventListener("keydown", (event) => {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    const all = [...rows.querySelectorAll(".row")];
    const next = all[all.indexOf(document.activeElement) + step];
    if (step && next) { event.preventDefault(); next.focus(); }
  });
  return { element, refresh, choose };
}

function row(item, current) {
  return h("a", { class: `row ${tone(item.state)}`, href: `#/cases/${encodeURIComponent(item.id)}`, data: { key: item.id, id: item.id }, "aria-current": String(current) },
    h("div", { class: "line" }, h("span", { class: "who" }, item.patient_id || t("unknown_patient")), badge(item.shown.code, item.shown.text)),
    item.reason && h("p", { class: "why" }, item.reason.text, item.waiting_until && [` ${t("until")} `, time(item.waiting_until)]),
    h("div", { class: "chips" }, item.priority === "stat" && h("span", { class: "chip stat" }, t("stat")), chips(item.modalities),
      item.accession_numbers.map((each) => h("span", { class: "chip" }, each)), item.revision > 1 && h("span", { class: "chip" }, `${t("revision")} ${item.revision}`),
      !item.newest && h("span", { class: "chip old" }, t("replaced")), h("span", { class: "chip" }, time(item.changed_at))));
}

function logView(title, path, draw, empty, filter) {
  let limit = PAGE;
  const body = h("div");
  const address = () => `${path}?limit=${limit}${filter?.value ? `&verdict=${filter.value}` : ""}`;
  const refresh = keeper(body, () => ask(address()), (page) => [
    page.items.length ? draw(page.items) : h("p", { class: "empty" }, empty),
    page.next_cursor && limit < 200 && h("button", { type: "button", data: { key: "more" }, onclick: () => { limit += PAGE; refresh(true).catch(fail); } }, t("more"))]);
  filter?.addEventListener("change", () => refresh(true).catch(fail));
  return { element: h("section", { class: "panel" }, h("div", { class: "bar" }, h("h2", {}, title), filter), body), refresh };
}

export function receiptsView() {
  const filter = h("select", { "aria-label": t("verdict") }, h("option", { value: "" }, t("all_verdicts")), VERDICTS.map((name) => h("option", { value: name }, t(`verdict_${name}`))));
  return logView(t("receipts"), "/v1/receipts", receiptTable, t("no_receipts"), filter);
}

export function receiptTable(items) {
  return table([t("when"), t("verdict"), t("modality"), t("accession"), t("from"), t("size"), t("study")], items.map((each) => [
    fit(time(each.received_at)), wide(badge(each.verdict, t(`verdict_${each.verdict}`)), each.reason && h("div", { class: "muted small" }, `${each.reason.text} ${each.reason.next}`), each.reason && h("div", { class: "code muted" }, each.reason.code)),
    fit(each.modality), td(each.accession_number), td(each.peer, h("div", { class: "muted small" }, each.door)), fit(bytes(each.size)), td(h("span", { class: "code" }, each.study_instance_uid))]));
}

export function deliveriesView() {
  const sent = logView(t("deliveries"), "/v1/deliveries", (items) => deliveryTable(items, true), t("no_deliveries"));
  const lost = h("div");
  const events = keeper(lost, () => ask("/v1/notices?state=dead&limit=200"), (page) => (page.items.length ? givenUp(page, () => events(true).catch(fail)) : []));
  return { element: h("div", {}, lost, sent.element), refresh: (force) => Promise.all([events(force), sent.refresh(force)]) };
}

// Events that a webhook did not take and that nobody tries again: a line for each webhook and reason.
function givenUp(page, reload) {
  const hooks = [...new Set(page.items.map((each) => each.webhook))];
  const repeat = async (webhook) => {
    try { await ask("/v1/notices/repeat", { method: "POST", body: { webhook } }); toast(t("done")); } catch (error) { toast(error.message, true); }
    reload();
  };
  const line = (webhook) => {
    const own = page.items.filter((each) => each.webhook === webhook);
    const reasons = new Map(own.filter((each) => each.reason).map((each) => [each.reason.code, each.reason]));
    return h("div", { class: `reason ${familyTone([...reasons.values()][0]?.family)}`, data: { webhook } },
      h("p", {}, h("strong", {}, webhook), ` ${t("given_up", { n: `${own.length}${page.next_cursor ? "+" : ""}` })} `, time(own[0].created_at)),
      [...reasons.values()].map((each) => h("p", { class: "small" }, `${each.text} ${each.next} `, h("span", { class: "code muted" }, each.code))),
      may("operator") && h("p", { class: "actions" }, h("button", { type: "button", data: { key: `repeat-${webhook}` }, onclick: () => repeat(webhook) }, t("resend"))));
  };
  return h("section", { class: "panel" }, h("h2", {}, t("events_lost")), hooks.map(line));
}

export const associationsView = () => logView(t("associations"), "/v1/associations", associationTable, t("no_associations"));

export function associationTable(items) {
  const counts = (found) => Object.entries(found).map(([name, count]) => h("span", { class: "chip" }, `${t(`verdict_${name}`)} ${count}`));
  const lasted = (each) => (each.closed_at ? `${((new Date(each.closed_at) - new Date(each.opened_at)) / 1000).toFixed(1)} s` : t("open_now"));
  return table([t("opened_at"), t("calling"), t("called"), t("address"), t("lasted"), t("counts"), t("end")], items.map((each) => [
    fit(time(each.opened_at)), td(each.calling), td(each.called), fit(each.address), fit(lasted(each)), td(h("div", { class: "chips" }, counts(each.counts))), td(each.end, each.reason && h("div", { class: "muted small" }, each.reason.text))]));
}

export function fail(error) { toast(error.message, true); }
