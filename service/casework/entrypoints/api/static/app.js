// The page's frame: key, language, sections, and asking again every few seconds while somebody looks.
import { ask, forget, hasKey, may, session, setKey } from "/static/api.js";
import { currentLanguage, h, put, setLanguage, t } from "/static/dom.js";
import { associationsView, casesView, deliveriesView, receiptsView } from "/static/views.js";
import { whyView } from "/static/why.js";

const EVERY_MS = 3000;
const main = document.getElementById("main");
const SECTIONS = { cases: casesView, receipts: receiptsView, deliveries: deliveriesView, associations: associationsView };
let view = null, section = "", term = "";

function words() {
  document.documentElement.lang = currentLanguage() === "zh" ? "zh-CN" : "en";
  for (const each of document.querySelectorAll("[data-text]")) each.textContent = t(each.dataset.text);
  for (const each of document.querySelectorAll("[data-placeholder]")) each.placeholder = t(each.dataset.placeholder);
  for (const each of document.querySelectorAll("[data-label]")) each.setAttribute("aria-label", t(each.dataset.label));
  for (const each of document.querySelectorAll("[data-language]")) each.setAttribute("aria-pressed", String(each.dataset.language === currentLanguage()));
}

function tabs() {
  const bar = document.getElementById("tabs");
  bar.hidden = !session.owner;
  document.getElementById("leave").hidden = !session.owner;
  document.getElementById("ask").hidden = !session.owner;
  const names = Object.keys(SECTIONS).filter((name) => name !== "associations" || may("admin"));
  put(bar, names.map((name) => h("a", { href: `#/${name}`, data: { key: name }, "aria-current": name === section ? "page" : "false" }, t(name))));
}

function signIn() {
  view = null;
  tabs();
  const input = h("input", { id: "key", type: "password", autocomplete: "off", required: true, spellcheck: "false" });
  const wrong = h("p", { class: "wrong", role: "alert" });
  const form = h("form", {}, h("label", { for: "key" }, t("key")), input, wrong, h("button", { type: "submit", class: "primary" }, t("enter")));
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    setKey(input.value.trim());
    try { await enter(); } catch (error) {
      forget();
      wrong.textContent = error.status === 401 ? t("wrong_key") : error.message;
      input.select();
    }
  });
  put(main, h("section", { class: "panel door" }, h("h2", {}, t("signin")), h("p", { class: "muted small" }, t("signin_help")), form));
  input.focus();
  guard(null);
}

async function enter() {
  session.owner = await ask("/v1/session");
  await show(true);
}

async function show(fresh = false) {
  if (!session.owner) { signIn(); return; }
  const [, name = "cases", id = ""] = location.hash.split("/");
  const wanted = name === "why" && term ? "why" : name in SECTIONS ? name : "cases";
  const chosen = decodeURIComponent(id);
  if (!fresh && wanted === section && wanted === "cases" && view?.choose) { await guard(view.choose(chosen)); return; }
  section = wanted;
  tabs();
  view = wanted === "why" ? whyView(term) : SECTIONS[wanted](chosen);
  put(main, view.element);
  await guard(view.refresh());
}

async function guard(work) {
  const box = document.getElementById("health");
  try {
    await work;
    await health();
  } catch (error) {
    if (error.status === 401) { forget(); signIn(); return; }
    box.className = "health bad";
    box.textContent = error.code ? error.message : t("offline");
    if (error.code === "NOT_FOUND") location.hash = "#/cases";
  }
}

async function health() {
  const box = document.getElementById("health");
  const { ready, checks } = await ask("/v1/health/ready", { as: "health" });
  box.className = ready ? "health ok" : "health bad";
  box.textContent = ready ? t("ready") : `${t("unready")}: ${checks.filter((each) => !each.ok).map((each) => each.code).join(", ")}`;
}

document.getElementById("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  term = document.getElementById("term").value.trim();
  if (!term) return;
  // The term stays out of the address: addresses end up in histories and logs.
  if (location.hash === "#/why") show(true);
  else location.hash = "#/why";
});
document.getElementById("leave").addEventListener("click", () => { forget(); location.hash = ""; signIn(); });
for (const each of document.querySelectorAll("[data-language]")) {
  each.addEventListener("click", () => { setLanguage(each.dataset.language); words(); show(true); });
}
window.addEventListener("hashchange", () => show());
document.addEventListener("keydown", (event) => {
  if (event.key === "/" && session.owner && !event.target.matches("input, select, textarea")) {
    event.preventDefault();
    document.getElementById("term").focus();
  }
});
setInterval(() => { if (view && document.visibilityState === "visible" && !document.getElementById("viewer").open) guard(view.refresh()); }, EVERY_MS);

words();
if (hasKey()) enter().catch((error) => { if (error.status === 401) forget(); signIn(); });
else show();
