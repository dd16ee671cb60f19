// The public routes, with the tab's key. Failures are the service's own words.
import { currentLanguage } from "/static/dom.js";

const KEY = "casework.key";
export const session = { owner: null };
export const hasKey = () => Boolean(sessionStorage.getItem(KEY));
export const setKey = (key) => sessionStorage.setItem(KEY, key);
export function forget() {
  sessionStorage.removeItem(KEY);
  session.owner = null;
}
export const may = (role) => {
  const order = ["viewer", "operator", "admin"];
  return Boolean(session.owner) && order.indexOf(session.owner.role) >= order.indexOf(role);
};

export class Problem extends Error {
  constructor(body) {
    super(body.next ? `${body.title} ${body.next}` : body.title);
    this.code = body.code;
    this.status = body.status;
  }
}

export async function ask(path, { method = "GET", body, headers = {}, as = "json" } = {}) {
  const sent = { "Accept-Language": currentLanguage(), ...headers };
  if (hasKey()) sent.Authorization = `Bearer ${sessionStorage.getItem(KEY)}`;
  if (body !== undefined) sent["Content-Type"] = "application/json";
  const response = await fetch(path, { method, headers: sent, body: body === undefined ? undefined : JSON.stringify(body), cache: "no-store", credentials: "omit", redirect: "error" });
  if (!response.ok && !(as === "health" && response.status === 503)) {
    const problem = await response.json().catch(() => ({ title: `HTTP ${response.status}`, code: "INTERNAL", status: response.status }));
    throw new Problem(problem);
  }
  return as === "blob" ? response.blob() : response.json();
}

export function once() {
  const random = crypto.getRandomValues(new Uint8Array(16));
  return [...random].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

const pictures = new Map();
export async function picture(url) {
  if (!pictures.has(url)) {
    if (pictures.size > 200) for (const old of pictures.values()) URL.revokeObjectURL(await old);
    if (pictures.size > 200) pictures.clear();
    const loading = ask(url, { as: "blob" }).then((blob) => URL.createObjectURL(blob));
    pictures.set(url, loading);
    loading.catch(() => pictures.delete(url));
  }
  return pictures.get(url);
}

export async function download(url, name) {
  const address = URL.createObjectURL(await ask(url, { as: "blob" }));
  const link = document.createElement("a");
  link.href = address;
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(address), 10000);
}
