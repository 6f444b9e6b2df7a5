// Comparisons: those that are there, one in full, and a new one.

import { call, messages, text } from "./api.js";
import { h, say } from "./dom.js";
import { ago } from "./format.js";

export async function compare(view, signal, id) {
  if (id) return report(view, id);
  const [rows, images] = await Promise.all([call("GET", "/sampan/comparisons", undefined, signal), call("GET", "/images/json", undefined, signal)]);
  const names = images.map((row) => row.RepoTags?.[0]).filter(Boolean);
  const bar = h("progress", { max: 100, value: 0, hidden: true, "aria-label": "How much is measured" }), button = h("button", { class: "primary" }, "Measure");
  async function measure(event) {
    event.preventDefault();
    const form = new FormData(event.target);
    button.disabled = true;
    bar.hidden = false;
    try {
      const command = form.get("command").trim();
      const body = { Image: form.get("image"), Command: command ? command.split(/\s+/) : [], Quick: form.get("quick") === "on" };
      for await (const message of messages("POST", "/sampan/compare", body, signal)) {
        if (message.error) throw new Error(message.error);
        if (message.progressDetail) { bar.value = message.progressDetail.current; say(message.status); }
        if (message.aux) { say(""); location.hash = `#/compare/${message.aux.Id}`; }
      }
    } catch (error) { if (error.name !== "AbortError") say(error.message, true); }
    button.disabled = false;
    bar.hidden = true;
  }
  view.replaceChildren(h("h2", {}, "Container or virtual machine?"),
    h("form", { class: "card", onsubmit: measure },
      h("label", {}, h("span", {}, "Image"), h("select", { name: "image" }, names.map((name) => h("option", {}, name)))),
      h("label", {}, h("span", {}, "Command"), h("input", { name: "command", placeholder: "true" })),
      h("label", {}, h("input", { type: "checkbox", name: "quick", checked: true }), " quick: fewer rounds, no cold starts"), button, bar),
    h("h3", {}, "Measured"),
    rows.length ? h("ul", {}, rows.map((row) => h("li", {}, h("a", { href: `#/compare/${row.Id}` }, `${row.Image}: ${row.Command.join(" ")}`), ` ${ago(row.When)}. ${row.Headline}`)))
      : h("p", { class: "soft" }, "Nothing yet."));
}

async function report(view, id) {
  const page = await text(`/sampan/comparisons/${encodeURIComponent(id)}?format=html`);
  // The report is this engine's own, and still gets no right to run anything.
  const frame = h("iframe", { class: "report", title: "Report", sandbox: "" });
  frame.srcdoc = page;
  const save = h("a", { href: URL.createObjectURL(new Blob([page], { type: "text/html" })), download: `sampan-compare-${id}.html` }, "Save as a file");
  view.replaceChildren(h("h2", {}, "Comparison"), h("p", {}, h("a", { href: "#/compare" }, "All comparisons"), " · ", save), frame);
}
