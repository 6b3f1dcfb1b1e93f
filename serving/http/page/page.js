// The page: what was typed becomes requests, and the requests become pictures.

import { setKey } from "./api.js";
import { shrink } from "./dom.js";
import { hideHistory, remember, showHistory } from "./history.js";
import { stage } from "./results.js";
import { chooseSubject, chosenSubject, loadSubjects } from "./subjects.js";

const field = (id) => document.getElementById(id);
const PREVIEWS = 5;
const SLIDERS = ["subject-scale", "adapter-scale", "steps"];
let running = null;

function complain(error) {
  const wait = error?.retryAfter ? ` Try again in ${error.retryAfter} s.` : "";
  say("problem", error ? sentence(error.message) + wait : "");
}

function say(id, text) {
  field(id).textContent = text;
  field(id).hidden = !text;
}

function sentence(text) {
  const whole = text.charAt(0).toUpperCase() + text.slice(1);
  return /[.!?]$/.test(whole) ? whole : `${whole}.`;
}

function roll() {
  field("seed").value = Math.floor(Math.random() * 2 ** 31);
}

function settings() {
  return {
    prompt: field("prompt").value.trim(),
    subject: chosenSubject()?.name ?? "",
    compare: field("compare").checked,
    subjectScale: Number(field("subject-scale").value),
    adapterScale: Number(field("adapter-scale").value),
    steps: Number(field("steps").value),
    seed: Number(field("seed").value),
    negative: field("negative").value.trim(),
    guidance: field("guidance").value,
    opening: field("opening").value,
    refine: Number(field("refine").value),
  };
}

function restore(saved) {
  for (const [id, value] of [
    ["prompt", saved.prompt],
    ["subject-scale", saved.subjectScale],
    ["adapter-scale", saved.adapterScale],
    ["steps", saved.steps],
    ["seed", saved.seed],
    ["negative", saved.negative],
    ["guidance", saved.guidance],
    ["opening", saved.opening ?? ""],
    ["refine", saved.refine],
  ]) field(id).value = value;
  field("compare").checked = saved.compare;
  showValues();
  chooseSubject(saved.subject);
  field("prompt").focus();
}

/** What is wrong with the settings, or nothing. */
function mistake(chosen, subject) {
  if (!chosen.prompt) return "Say what to draw first.";
  if (!Number.isInteger(chosen.seed) || chosen.seed < 0) return "The seed must be a whole number, 0 or more.";
  if (subject?.state === "failed") return `${subject.name} could not be learned: remove it, or choose another.`;
  if (subject && subject.state !== "ready") return `${subject.name} is still being learned. It takes a moment.`;
  if (subject && !chosen.prompt.includes("[V]")) return "Write [V] in the prompt, where the subject is to appear.";
  if (!subject && chosen.prompt.includes("[V]")) return "The prompt has [V], and no subject is chosen: choose one.";
  return "";
}

/** One row for each picture: its title, and its request. */
function plan(chosen, subject) {
  const shared = {
    seed: chosen.seed,
    steps: chosen.steps,
    negative_prompt: chosen.negative,
    partial_images: Math.min(PREVIEWS, chosen.steps - 1),
    ...(chosen.guidance === "" ? {} : { guidance: Number(chosen.guidance) }),
  };
  const words = subject ? chosen.prompt.replaceAll("[V]", subject.class_word) : chosen.prompt;
  const base = ["Base", { ...shared, prompt: words, prompt_adapter: "off" }];
  if (!subject) return [base];
  const own = {
    ...shared,
    prompt: chosen.prompt,
    subject: subject.name,
    subject_scale: chosen.subjectScale,
    ...(chosen.opening === "" ? {} : { opening: Number(chosen.opening) }),
  };
  const predicted = { ...own, prompt_adapter: "auto", prompt_adapter_scale: chosen.adapterScale, refine: chosen.refine };
  const last = ["Predicted adapter", predicted];
  return chosen.compare ? [base, ["Subject only", { ...own, prompt_adapter: "off" }], last] : [last];
}

async function generate() {
  if (running) return;
  if (!field("seed").value) roll();
  const chosen = settings();
  const subject = chosenSubject();
  const wrong = mistake(chosen, subject);
  complain(wrong ? new Error(wrong) : null);
  if (wrong) return;
  const abort = new AbortController();
  setRunning(abort);
  const started = performance.now();
  const rows = plan(chosen, subject);
  const figures = stage(rows.map(([title]) => title));
  if (matchMedia("(max-width: 56rem)").matches) field("results").scrollIntoView({ block: "start" });
  const ends = await Promise.allSettled(rows.map(([, request], index) => figures[index].fill(request, abort.signal)));
  setRunning(null);
  const failed = ends.find((end) => end.status === "rejected" && end.reason.name !== "AbortError");
  if (failed) complain(failed.reason);
  const seconds = ((performance.now() - started) / 1000).toFixed(1);
  field("status").textContent = abort.signal.aborted ? "Cancelled." : failed ? "" : `Done in ${seconds} s.`;
  if (ends.every((end) => end.status === "fulfilled")) await keep(chosen, rows, ends);
}

async function keep(chosen, rows, ends) {
  const thumbs = await Promise.all(ends.map((end) => shrink(end.value, 96)));
  remember({ settings: chosen, pictures: rows.map(([title], index) => ({ title, thumb: thumbs[index] })) });
}

function setRunning(abort) {
  running = abort;
  field("generate").disabled = Boolean(abort);
  field("cancel").hidden = !abort;
  if (abort) field("status").textContent = "Drawing…";
  else if (document.activeElement === document.body) field("generate").focus();
}

function cancel() {
  running?.abort();
}

function showValues() {
  for (const id of SLIDERS) {
    const { value } = field(id);
    field(`${id}-value`).textContent = id === "steps" ? value : Number(value).toFixed(2);
  }
}

function showChoice() {
  const none = !chosenSubject();
  field("compare-field").hidden = none;
  for (const id of ["subject-scale", "adapter-scale"]) field(id).closest(".field").hidden = none;
}

function insertV() {
  const prompt = field("prompt");
  prompt.setRangeText("[V]", prompt.selectionStart, prompt.selectionEnd, "end");
  prompt.focus();
}

async function begin() {
  try {
    await loadSubjects();
    showHistory(restore);
    complain(null);
  } catch (error) {
    if (error.status !== 401) complain(error);
  }
}

field("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  generate();
});
field("cancel").addEventListener("click", cancel);
field("dice").addEventListener("click", roll);
field("insert-v").addEventListener("click", insertV);
for (const id of SLIDERS) field(id).addEventListener("input", showValues);
document.addEventListener("palp-chosen", showChoice);
document.addEventListener("palp-problem", (event) => complain(event.detail));
document.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && !document.querySelector("dialog[open]")) generate();
  if (event.key === "Escape") cancel();
});
window.addEventListener("palp-key-needed", ({ detail }) => {
  hideHistory();
  if (field("key-dialog").open) return;
  field("key-dialog").showModal();
  say("key-problem", detail.tried ? "That key is not known." : "");
});
field("key-form").addEventListener("submit", (event) => {
  try {
    setKey(field("key").value.trim());
  } catch (error) {
    event.preventDefault();
    return say("key-problem", error.message);
  }
  field("key").value = "";
  setTimeout(begin); // after the dialog is closed
});

roll();
showValues();
showChoice();
begin();
