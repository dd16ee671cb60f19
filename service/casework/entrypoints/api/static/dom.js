// Elements from data. Text only ever becomes a text node; nothing here parses HTML.
import { TEXTS } from "/static/texts.js";

let language = localStorage.getItem("casework.language") || (navigator.language.startsWith("zh") ? "zh" : "en");

export const currentLanguage = () => language;
export function setLanguage(chosen) {
  language = chosen;
  localStorage.setItem("casework.language", chosen);
}

export function t(name, values = {}) {
  const text = TEXTS[language][name] ?? TEXTS.en[name] ?? name;
  return text.replace(/\{(\w+)\}/g, (_, key) => String(values[key] ?? ""));
}
export const known = (name) => name in TEXTS.en;

export function h(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "class") element.className = value;
    else if (name === "data") Object.assign(element.dataset, value);
    else if (name === "width%") element.style.width = `${value}%`;
    else if (name === "left%") element.style.left = `${value}%`;
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

// Replace the content and keep the keyboard's place, open details and the scroll of tables.
export function put(holder, ...children) {
  const active = holder.contains(document.activeElement) ? document.activeElement.dataset.key : undefined;
  const open = new Set([...holder.querySelectorAll("details[open]")].map((each) => each.dataset.key));
  holder.replaceChildren(...children.flat(Infinity).filter(Boolean));
  for (const each of holder.querySelectorAll("details")) if (open.has(each.dataset.key)) each.open = true;
  if (active) holder.querySelector(`[data-key="${CSS.escape(active)}"]`)?.focus({ preventScroll: true });
}

export function when(text) {
  if (!text) return "";
  const style = { month: "2-digit", day: "2-digit", hour: "2-digit", minute: "2-digit", second: "2-digit", hour12: false };
  return new Intl.DateTimeFormat(language === "zh" ? "zh-CN" : "en-GB", style).format(new Date(text));
}
export const time = (text) => h("time", { datetime: text, title: text }, when(text));

export function bytes(count) {
  const units = ["B", "kB", "MB", "GB"];
  let unit = 0;
  while (count >= 1000 && unit < 3) { count /= 1000; unit += 1; }
  return `${unit ? count.toFixed(1) : count} ${units[unit]}`;
}

const TONES = {
  receiving: ["wait", "◔"], stable: ["wait", "◑"], queued: ["wait", "◷"], running: ["wait", "▶"], rendered: ["wait", "◕"], delivering: ["wait", "➤"],
  delivered: ["good", "✓"], rejected: ["warn", "⊘"], needs_attention: ["bad", "!"], superseded: ["idle", "↻"], closed: ["idle", "–"], retracted: ["bad", "✕"],
  waiting: ["wait", "⌛"], ready: ["wait", "◑"], reported: ["wait", "◕"], not_performed: ["warn", "⊘"],
  accepted: ["good", "✓"], duplicate: ["idle", "="], kept_aside: ["warn", "⚑"], refused: ["bad", "✕"],
  pending: ["wait", "◷"], sending: ["wait", "➤"], unknown: ["warn", "?"], stored: ["good", "✓"], stored_with_warning: ["warn", "✓"], retry_wait: ["warn", "◷"], dead: ["bad", "!"], committed: ["good", "✓✓"], commit_failed: ["bad", "!"],
};
const FAMILIES = { waiting: "wait", note: "good", refused: "warn", unavailable: "warn", defect: "bad" };
export const tone = (state) => `is-${(TONES[state] || ["idle"])[0]}`;
export const familyTone = (family) => `is-${FAMILIES[family] || "idle"}`;
export const badge = (state, words) => h("span", { class: `state ${tone(state)}`, data: { glyph: (TONES[state] || ["", "•"])[1] } }, words);

export function table(heads, rows) {
  const header = h("tr", {}, heads.map((head) => h("th", { scope: "col" }, head)));
  return h("div", { class: "table", tabindex: "0" }, h("table", {}, h("thead", {}, header), h("tbody", {}, rows.map((cells) => h("tr", {}, cells)))));
}
export const td = (...children) => h("td", {}, ...children);
export const fit = (...children) => h("td", { class: "fit" }, ...children);
export const wide = (...children) => h("td", { class: "wide" }, ...children);

export function chips(modalities) {
  return Object.entries(modalities).map(([name, count]) => h("span", { class: "chip" }, `${name} ${count}`));
}

let timer;
export function toast(text, bad = false) {
  const box = document.getElementById("toast");
  box.className = bad ? "toast bad" : "toast";
  box.textContent = text;
  clearTimeout(timer);
  timer = setTimeout(() => { box.textContent = ""; }, 7000);
}
