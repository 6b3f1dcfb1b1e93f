// The subjects: cards to choose from, uploading, and learning that can be watched.

import { ApiError, addSubject, listSubjects, ownName, removeSubject, watchSubject } from "./api.js";
import { element, shrink } from "./dom.js";

const THUMB = "palp-thumb:";
const PAUSE_MS = 1000;
const LONGEST_PAUSE_MS = 30_000;
const list = document.getElementById("subjects");
const dialog = document.getElementById("upload-dialog");
const files = document.getElementById("files");
const drop = document.getElementById("drop");
const problem = document.getElementById("upload-problem");
const remove = document.getElementById("remove-subject");

const known = new Map();
const watched = new Set();
const uploaded = new Map(); // of this tab: name, and what was chosen then
let chosen = "";
let pauseMs = PAUSE_MS;
let timer = null;
let picked = [];

/** The subject to draw, null for none. */
export function chosenSubject() {
  return known.get(chosen) ?? null;
}

/** Choose by name; a subject that is gone leaves none chosen. */
export function chooseSubject(name) {
  chosen = known.has(name) ? name : "";
  render();
  list.dispatchEvent(new Event("palp-chosen", { bubbles: true }));
}

/** Ask the server for the subjects, and show them. */
export async function loadSubjects() {
  const subjects = await listSubjects();
  known.clear();
  for (const subject of subjects) known.set(subject.name, subject);
  chooseSubject(chosen);
  for (const subject of subjects) if (learning(subject)) watch(subject.name);
}

function learning(subject) {
  return subject.state === "waiting" || subject.state === "learning";
}

async function watch(name) {
  if (watched.has(name)) return;
  watched.add(name);
  try {
    for await (const subject of watchSubject(name)) {
      if (subject.deleted) return forget(name);
      known.set(name, subject);
      render();
      if (subject.state === "ready" && (!chosen || chosen === uploaded.get(name))) chooseSubject(name);
    }
  } catch (error) {
    if (error.status === 404) return forget(name);
    if (error.status === 401) return;
    if (error instanceof ApiError) report(error);
  } finally {
    watched.delete(name);
  }
  if (known.has(name) && learning(known.get(name))) loadLater();
  else pauseMs = PAUSE_MS;
}

/** A learning is no longer heard of, as when the server stops: ask again, each time after a longer pause. */
function loadLater() {
  if (timer) return;
  timer = setTimeout(() => {
    timer = null;
    loadSubjects().catch((error) => error.status === 401 || loadLater());
  }, pauseMs);
  pauseMs = Math.min(2 * pauseMs, LONGEST_PAUSE_MS);
}

function forget(name) {
  localStorage.removeItem(ownName(THUMB + name));
  known.delete(name);
  chooseSubject(chosen);
}

function report(error) {
  list.dispatchEvent(new CustomEvent("palp-problem", { bubbles: true, detail: error }));
}

function render() {
  const focused = list.contains(document.activeElement) ? document.activeElement.value : null;
  list.replaceChildren(card(null), ...[...known.values()].map(card));
  if (focused !== null) list.querySelector(`input[value="${CSS.escape(focused)}"]`)?.focus();
  remove.hidden = !chosen;
}

function card(subject) {
  const name = subject?.name ?? "";
  const radio = element("input", { type: "radio", name: "subject", value: name, checked: name === chosen });
  radio.addEventListener("change", () => chooseSubject(name));
  const face = element("span", { className: "face" });
  const thumb = subject && localStorage.getItem(ownName(THUMB + name));
  if (thumb) face.append(element("img", { src: thumb, alt: "" }));
  else face.textContent = subject ? name.slice(0, 2) : "∅";
  const label = element("label", { className: "subject" }, radio, face);
  label.append(element("span", { className: "name", textContent: subject ? name : "none" }), note(subject));
  label.dataset.state = subject?.state ?? "ready";
  return label;
}

function note(subject) {
  if (!subject) return element("span", { className: "note", textContent: "the bare base" });
  if (subject.state === "ready") return element("span", { className: "note", textContent: subject.class_word });
  if (subject.state === "failed") {
    return element("span", { className: "note bad", textContent: `failed: ${subject.error ?? "no reason is known"}` });
  }
  const bar = element("progress", { max: 1, value: subject.progress });
  bar.setAttribute("aria-label", `learning ${subject.name}`);
  return element("span", { className: "note" }, bar);
}

function pick(chosenFiles) {
  picked = [...chosenFiles].filter((file) => file.type.startsWith("image/"));
  const row = document.getElementById("chosen");
  for (const image of row.children) URL.revokeObjectURL(image.src);
  row.replaceChildren(...picked.map((file) => element("img", { src: URL.createObjectURL(file), alt: file.name })));
}

function complain(text) {
  problem.textContent = text;
  problem.hidden = !text;
}

async function upload(event) {
  event.preventDefault();
  const name = document.getElementById("name").value.trim();
  const classWord = document.getElementById("class-word").value.trim();
  if (!picked.length) return complain("Choose one or more pictures first.");
  if (!/^[A-Za-z0-9][A-Za-z0-9._-]*$/.test(name)) return complain("The name needs letters, digits, - or _, such as rex.");
  if (!classWord) return complain("Say what it is, in a word that the base knows, such as dog.");
  const button = document.getElementById("learn");
  button.disabled = true;
  complain("");
  try {
    known.set(name, await addSubject(name, classWord, picked));
    uploaded.set(name, chosen);
    keepThumb(name, await shrink(picked[0], 96));
    dialog.close();
    render();
    watch(name);
  } catch (error) {
    complain(error.message);
  } finally {
    button.disabled = false;
  }
}

function keepThumb(name, thumb) {
  try {
    if (thumb) localStorage.setItem(ownName(THUMB + name), thumb);
  } catch {
    // full: the card shows letters instead
  }
}

document.getElementById("upload").addEventListener("submit", upload);
document.getElementById("close-upload").addEventListener("click", () => dialog.close());
document.getElementById("open-upload").addEventListener("click", () => {
  document.getElementById("upload").reset();
  pick([]);
  complain("");
  dialog.showModal();
});
files.addEventListener("change", () => pick(files.files));
for (const type of ["dragover", "dragleave", "drop"]) {
  drop.addEventListener(type, (event) => {
    event.preventDefault();
    drop.classList.toggle("over", type === "dragover");
    if (type === "drop") pick(event.dataTransfer.files);
  });
}
remove.addEventListener("click", async () => {
  const name = chosen;
  if (!confirm(`Remove ${name}? What was learned is lost.`)) return;
  try {
    await removeSubject(name);
  } catch (error) {
    if (error.status !== 404) return report(error); // with 404 it is gone already
  }
  forget(name);
});
