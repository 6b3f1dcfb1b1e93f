// What was drawn before: small pictures and settings, kept in this browser for each key.

import { ownName } from "./api.js";
import { element } from "./dom.js";

const KEY = "palp-history";
const MOST = 24;
const list = document.getElementById("history");
const section = list.closest("section");
let recall = () => {};

/** Show what there is; `onRecall` is called with the settings of an entry that was chosen. */
export function showHistory(onRecall) {
  recall = onRecall;
  render();
}

/** Show nothing, until the key is known. */
export function hideHistory() {
  section.hidden = true;
  list.replaceChildren();
}

/** Add {settings, pictures: [{title, thumb}]}. */
export function remember(entry) {
  let entries = [entry, ...read()].slice(0, MOST);
  while (entries.length) {
    try {
      localStorage.setItem(ownName(KEY), JSON.stringify(entries));
      break;
    } catch {
      entries = entries.slice(0, -1); // no room: the oldest goes
    }
  }
  render();
}

function read() {
  try {
    const entries = JSON.parse(localStorage.getItem(ownName(KEY)) ?? "[]");
    return Array.isArray(entries) ? entries : [];
  } catch {
    return [];
  }
}

function render() {
  const entries = read();
  section.hidden = !entries.length;
  list.replaceChildren(...entries.map((entry) => element("li", {}, button(entry))));
}

function button({ settings, pictures }) {
  const row = element("span", { className: "thumbs" });
  for (const { title, thumb } of pictures) if (thumb) row.append(element("img", { src: thumb, alt: title }));
  const text = element("span", { className: "words", textContent: settings.prompt });
  const small = element("span", { className: "note", textContent: `${settings.subject || "base"} · seed ${settings.seed}` });
  const made = element("button", { type: "button", className: "entry" }, row, text, small);
  made.addEventListener("click", () => recall(settings));
  return made;
}

document.getElementById("clear-history").addEventListener("click", () => {
  localStorage.removeItem(ownName(KEY));
  render();
});
