// Images, and the layers that they are made of.

import { call } from "./api.js";
import { confirmed, h, say } from "./dom.js";
import { ago, bytes } from "./format.js";
import { runDialog } from "./run.js";

const title = (row) => row.RepoTags?.[0] ?? row.Id.slice(7, 19);

export async function images(view, signal) {
  const rows = await call("GET", "/images/json", undefined, signal);
  const again = () => images(view, signal);
  async function remove(row) {
    if (!(await confirmed(`Remove the image ${title(row)}?`, "Remove"))) return;
    try { await call("DELETE", `/images/${encodeURIComponent(row.RepoTags?.[0] ?? row.Id)}`); say(`${title(row)} is removed`); } catch (error) { say(error.message, true); }
    await again();
  }
  async function pull(event) {
    event.preventDefault();
    const name = new FormData(event.target).get("image");
    try {
      const { messages } = await import("./api.js");
      for await (const message of messages("POST", `/images/create?fromImage=${encodeURIComponent(name)}`)) {
        if (message.error) throw new Error(message.error);
        say(`${message.id ? `${message.id}: ` : ""}${message.status ?? ""}`);
      }
    } catch (error) { say(error.message, true); }
    await again();
  }
  view.replaceChildren(h("h2", {}, "Images"),
    h("form", { class: "actions", onsubmit: pull }, h("label", {}, h("span", {}, "Pull"), h("input", { name: "image", required: true, placeholder: "registry/name:tag" })), h("button", {}, "Pull")),
    h("div", { class: "scroll" }, h("table", {},
      h("thead", {}, h("tr", {}, ["Image", "Id", "Made"].map((name) => h("th", { scope: "col" }, name)), h("th", { scope: "col", class: "number" }, "Size"), h("th", { scope: "col", class: "number" }, "Containers"), h("th", {}, h("span", {}, "Actions")))),
      h("tbody", {}, rows.map((row) => h("tr", {},
        h("td", {}, h("a", { href: `#/images/${encodeURIComponent(row.Id)}` }, title(row))), h("td", { class: "mono" }, row.Id.slice(7, 19)),
        h("td", {}, ago(row.Created * 1000)), h("td", { class: "number" }, bytes(row.Size)), h("td", { class: "number" }, Math.max(row.Containers, 0)),
        h("td", {}, h("div", { class: "actions" }, h("button", { type: "button", "aria-label": `Run ${title(row)}`, onclick: () => runDialog(() => { location.hash = "#/"; }, title(row)) }, "Run…"),
          h("button", { type: "button", class: "danger", "aria-label": `Remove ${title(row)}`, onclick: () => remove(row) }, "Remove")))))))));
}

export async function image(view, signal, id) {
  const [found, steps, all] = await Promise.all([
    call("GET", `/images/${encodeURIComponent(id)}/json`, undefined, signal), call("GET", `/images/${encodeURIComponent(id)}/history`, undefined, signal), call("GET", "/images/json", undefined, signal)]);
  const others = await Promise.all(all.filter((row) => row.Id !== found.Id).map((row) => call("GET", `/images/${encodeURIComponent(row.Id)}/json`, undefined, signal)));
  const layers = [...found.RootFS.Layers];
  // The history is from the top; a step without a layer has no size, and layers count from the bottom.
  const rows = [...steps].reverse().map((step) => {
    const digest = step.Size > 0 || steps.length === layers.length ? layers.shift() : undefined;
    const users = digest ? others.filter((other) => other.RootFS.Layers.includes(digest)) : [];
    return h("div", { class: users.length ? "shared" : digest ? "" : "empty" },
      h("strong", {}, digest ? bytes(step.Size) : "no files"), " ", h("span", { class: "mono" }, step.CreatedBy || "base"),
      users.length ? h("div", { class: "soft" }, `shared with ${users.map((other) => other.RepoTags[0] ?? other.Id.slice(7, 19)).join(", ")}`) : null);
  });
  const config = found.Config ?? {};
  const facts = [["Id", found.Id], ["Platform", `${found.Os}/${found.Architecture}`], ["Size", bytes(found.Size)], ["Entrypoint", (config.Entrypoint ?? []).join(" ")],
    ["Command", (config.Cmd ?? []).join(" ")], ["User", config.User], ["Ports", Object.keys(config.ExposedPorts ?? {}).join(", ")], ["Digests", (found.RepoDigests ?? []).join("\n")]];
  view.replaceChildren(h("h2", {}, found.RepoTags?.[0] ?? found.Id.slice(7, 19)),
    h("table", {}, h("tbody", {}, facts.filter(([, value]) => value).map(([name, value]) => h("tr", {}, h("th", { scope: "row" }, name), h("td", { class: "mono" }, value))))),
    h("h3", {}, "Layers, the lowest at the bottom"), h("div", { class: "image-layers" }, rows));
}
