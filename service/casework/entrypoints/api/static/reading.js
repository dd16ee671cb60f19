// Reading a case: heat-maps side by side as a reader hangs them, and the case in words for two kinds of reader.
import { ask, download, picture } from "/static/api.js";
import { currentLanguage, h, t, toast } from "/static/dom.js";

const ORDER = ["MG", "MR", "US"];
const made = new Map();
let register = "radiologist";
let heat = { on: true, share: 100 };  // what is shown of the colour, in percent of the heat-map as it was sent

export async function loadSummary(found) {
  const asked = `/v1/cases/${encodeURIComponent(found.id)}/summary?language=${currentLanguage()}&register=${register}`;
  const key = `${asked} ${found.changed_at} ${found.newest}`;
  if (!found.sides.length && !["rejected", "needs_attention", "closed"].includes(found.state)) return null;
  if (!made.has(key)) {
    if (made.size > 20) made.clear();
    made.set(key, { ...await ask(`${asked}&format=json`), address: asked });
  }
  return made.get(key);
}

export function summaryPanel(found, page, reload) {
  if (!page) return null;
  const choose = (name) => { register = name; reload(); };
  const save = async () => {
    try { await download(`${page.address}&format=html`, `casework-${found.id}.html`); } catch (error) { toast(error.message, true); }
  };
  return h("section", { class: "panel summary" },
    h("div", { class: "bar" }, h("h3", {}, t("summary")),
      h("div", { class: "choice", role: "group", "aria-label": t("register") }, ["radiologist", "plain"].map((name) =>
        h("button", { type: "button", "aria-pressed": String(name === page.register), data: { key: `register-${name}` }, onclick: () => choose(name) }, t(`for_${name}`)))),
      h("button", { type: "button", data: { key: "save-summary" }, onclick: save }, t("save_summary"))),
    h("p", { class: "unverified" }, page.mark), h("p", { class: "summary-title" }, page.title),
    page.warnings.map((line) => h("p", { class: "small warning" }, line)),
    page.blocks.map((block) => [block.heading && h("h4", {}, block.heading), h("ul", { class: "sentences" }, block.lines.map((line) => h("li", {}, line)))]));
}

// "MG R MLO": modality, side, view; what has no side stands below both columns.
function placed(each, underlays) {
  const [, modality = "", side = "", view = ""] = /^(?:(MG|MR|US)\s+)?(?:([RL])\s+)?(.*)$/.exec(each.label) || [];
  const under = underlays.find((one) => one.sop_instance_uid === each.sop_instance_uid);
  return { each: { ...each, under }, modality, side, view };
}

// The picture without heat lies over the heat-map: the less of the heat is wanted, the more of that is seen. Words stay.
function layers(each, className) {
  const image = h("img", { alt: each.label }), over = each.under && h("img", { class: "underlay", alt: "", "aria-hidden": "true" });
  const show = (to, url) => picture(url).then((address) => { to.src = address; });
  show(image, each.url).catch(() => { image.alt = t("no_picture"); });
  if (over) { veil(over); show(over, each.under.url).catch(() => over.remove()); }
  return h("span", { class: className }, image, over);
}
const veil = (over) => { over.style.opacity = String(1 - (heat.on ? heat.share / 100 : 0)); };

function dials(name) {
  const change = (wanted) => {
    heat = { ...heat, ...wanted };
    document.querySelectorAll(".underlay").forEach(veil);
    for (const box of document.querySelectorAll(".heat-on")) box.checked = heat.on;
    for (const dial of document.querySelectorAll(".heat-share")) { dial.value = String(heat.share); dial.disabled = !heat.on; dial.setAttribute("aria-valuetext", `${heat.share} %`); }
  };
  const box = h("input", { type: "checkbox", class: "heat-on", data: { key: `${name}-on` }, onchange: (event) => change({ on: event.target.checked }) });
  const dial = h("input", { type: "range", class: "heat-share", min: 0, max: 100, step: 5, "aria-valuetext": `${heat.share} %`, disabled: !heat.on, data: { key: `${name}-share` }, oninput: (event) => change({ share: Number(event.target.value) }) });
  box.checked = heat.on;
  dial.value = String(heat.share);
  return h("span", { class: "dials" }, h("label", {}, box, t("heat")), h("label", {}, t("opacity"), dial));
}

export function reading(artefacts) {
  const found = artefacts.filter((each) => each.kind === "preview" && each.media_type === "image/png").map((each) => placed(each, artefacts.filter((one) => one.kind === "underlay")));
  if (!found.length) return null;
  const all = found.map(({ each }) => each);
  const groups = [...ORDER, ""].map((name) => found.filter((one) => (ORDER.includes(one.modality) ? one.modality : "") === name)).filter((group) => group.length);
  return h("section", { class: "panel" }, h("div", { class: "bar" }, h("h3", {}, t("previews")), all.some((each) => each.under) && dials("heat")), h("p", { class: "muted small" }, t("hanging")),
    groups.map((group) => [group[0].modality && h("h4", {}, group[0].modality), rows(group, all)]), h("p", { class: "unverified" }, t("disclaimer")));
}

function rows(group, all) {
  const views = [...new Set(group.map((one) => one.view))];
  const cell = (side, view) => group.filter((one) => one.side === side && one.view === view).map((one) => thumbnail(one.each, all));
  const sides = views.map((view) => [["R", cell("R", view)], ["L", cell("L", view)]]).filter(([right, left]) => right[1].length || left[1].length);
  return [h("div", { class: "hanging" }, sides.flatMap((row) => row.map(([side, pictures]) => (pictures.length ? h("div", {}, pictures) : h("p", { class: "empty" }, t(`none_${side}`)))))),
    h("div", { class: "hanging" }, views.flatMap((view) => cell("", view)))];
}

function thumbnail(each, all) {
  return h("button", { type: "button", class: "picture", data: { key: `picture-${each.id}` }, "aria-label": `${t("enlarge")}: ${each.label}`, onclick: () => enlarge(each, all) }, layers(each, "layers"), h("span", { class: "caption" }, each.label));
}

function enlarge(each, all) {
  const box = document.getElementById("viewer");
  const step = (by) => enlarge(all[(all.indexOf(each) + by + all.length) % all.length], all);
  box.setAttribute("aria-label", each.label);
  box.onkeydown = (event) => {
    const by = event.target.type === "range" ? 0 : { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (by) { event.preventDefault(); step(by); }
  };
  box.replaceChildren(layers(each, "layers large"), h("footer", {}, h("span", {}, each.label, " · ", h("span", { class: "muted small" }, t("disclaimer"))),
    each.under && dials("large"),
    h("span", { class: "actions" }, h("button", { type: "button", onclick: () => step(-1) }, t("previous")), h("button", { type: "button", onclick: () => step(1) }, t("following")), h("button", { type: "button", onclick: () => box.close() }, t("close")))));
  if (!box.open) box.showModal();
  box.querySelector("button:last-child")?.focus();
}
