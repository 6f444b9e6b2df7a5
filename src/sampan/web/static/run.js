// Running an image: the few options that most need.

import { call } from "./api.js";
import { h, say } from "./dom.js";

export async function runDialog(done, chosen = "") {
  const rows = await call("GET", "/images/json");
  const names = rows.flatMap((row) => row.RepoTags ?? []);
  const dialog = h("dialog", { "aria-labelledby": "run-title" });
  const problem = h("p", { role: "alert", class: "soft" });
  async function go(event) {
    event.preventDefault();
    const form = new FormData(event.target), command = form.get("command").trim(), ports = form.get("ports").trim();
    const bindings = {}, exposed = {};
    for (const item of ports ? ports.split(/[\s,]+/) : []) {
      const [host, inner] = item.split(":");
      const key = `${inner ?? host}/tcp`;
      exposed[key] = {};
      bindings[key] = [{ HostPort: inner ? host : "" }];
    }
    const body = { Image: form.get("image"), Cmd: command ? ["/bin/sh", "-c", command] : undefined, ExposedPorts: exposed, Tty: form.get("tty") === "on", OpenStdin: form.get("tty") === "on",
      HostConfig: { Isolation: form.get("isolation"), PortBindings: bindings, NetworkMode: form.get("network"), AutoRemove: false } };
    problem.textContent = "Starting …";
    try {
      const name = form.get("name").trim();
      const made = await call("POST", `/containers/create${name ? `?name=${encodeURIComponent(name)}` : ""}`, body);
      try { await call("POST", `/containers/${made.Id}/start`); } catch (error) { await call("DELETE", `/containers/${made.Id}?force=1`); throw error; }
      dialog.close();
      say(`${name || made.Id.slice(0, 12)} runs`);
      await done();
    } catch (error) { problem.textContent = error.message; }
  }
  const field = (text, element) => h("label", {}, h("span", {}, text), element);
  const networks = await call("GET", "/networks");
  dialog.append(h("h2", { id: "run-title" }, "Run an image"), h("form", { onsubmit: go },
    field("Image", h("select", { name: "image" }, names.map((name) => h("option", { selected: name === chosen }, name)))),
    field("Command", h("input", { name: "command", placeholder: "the image's own" })), field("Name", h("input", { name: "name", placeholder: "made up" })),
    field("Isolation", h("select", { name: "isolation" }, [["auto", "as the policy says"], ["container", "container"], ["vm", "virtual machine"]].map(([value, text]) => h("option", { value }, text)))),
    field("Network", h("select", { name: "network" }, networks.map((row) => h("option", { selected: row.Name === "bridge" }, row.Name)))),
    field("Ports", h("input", { name: "ports", placeholder: "8080:80" })),
    h("label", {}, h("input", { type: "checkbox", name: "tty" }), " with a terminal"),
    problem, h("div", { class: "actions" }, h("button", { type: "button", onclick: () => dialog.close() }, "Cancel"), h("button", { class: "primary" }, "Run"))));
  dialog.addEventListener("close", () => dialog.remove());
  document.body.append(dialog);
  dialog.showModal();
}
