// Pictures on their way: one figure for each, side by side.

import { draw } from "./api.js";
import { element, pngBlob } from "./dom.js";

const section = document.getElementById("results");
const urls = new Set();

/** Empty the stage, and put one figure there for each picture. */
export function stage(titles) {
  for (const url of urls) URL.revokeObjectURL(url);
  urls.clear();
  const figures = titles.map((title) => new Figure(title));
  section.replaceChildren(...figures.map((figure) => figure.root));
  section.dataset.count = titles.length;
  return figures;
}

class Figure {
  constructor(title) {
    this.title = title;
    this.image = element("img", { alt: "" });
    this.image.hidden = true;
    this.bar = element("progress", { max: 1, value: 0 });
    this.bar.setAttribute("aria-label", title);
    this.frame = element("div", { className: "frame" }, this.image, this.bar);
    this.note = element("p", { className: "note", textContent: "waiting" });
    const caption = element("figcaption", {}, element("h3", { textContent: title }), this.note);
    this.root = element("figure", {}, this.frame, caption);
  }

  /** Draw into the figure; the finished picture as a blob. Throws what went wrong, and shows it. */
  async fill(request, signal) {
    try {
      for await (const { name, data } of draw(request, signal)) {
        if (name === "queued") this.note.textContent = data.ahead ? `${data.ahead} before it` : "starting";
        else if (name === "progress") this.#progress(data);
        else if (name === "partial_image") this.#show(pngBlob(data.b64_json), "");
        else if (name === "completed") return this.#finish(request, data);
      }
      throw new Error("The server ended the picture early.");
    } catch (error) {
      this.#fail(error);
      throw error;
    }
  }

  #progress({ step, steps }) {
    this.bar.value = step / steps;
    this.note.textContent = `step ${step} of ${steps}`;
  }

  #show(blob, alt) {
    const url = URL.createObjectURL(blob);
    urls.add(url);
    this.image.src = url;
    this.image.alt = alt;
    this.image.hidden = false;
    return url;
  }

  #finish(request, data) {
    const blob = pngBlob(data.b64_json);
    const url = this.#show(blob, `${this.title}: ${request.prompt}`);
    this.bar.hidden = true;
    this.root.classList.add("done");
    const seconds = Object.values(data.details.seconds).reduce((sum, value) => sum + value, 0);
    const file = `palp-${this.title.toLowerCase().replaceAll(" ", "-")}-${data.seed}.png`;
    const link = element("a", { href: url, download: file, textContent: "Download" });
    this.note.replaceChildren(`${seconds.toFixed(1)} s`, " · ", link);
    if (data.details.abstained) {
      const text = "The prompt is too unlike what the prediction learned from, so it was left out.";
      this.note.after(element("p", { className: "note aside", textContent: text }));
    }
    return blob;
  }

  #fail(error) {
    this.bar.hidden = true;
    this.root.classList.add("failed");
    this.note.textContent = error.name === "AbortError" ? "cancelled" : "not drawn";
  }
}
