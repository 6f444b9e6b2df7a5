// The two stacks: what shares the host's kernel, and what has one of its own.

import { buttons } from "./actions.js";
import { call } from "./api.js";
import { h } from "./dom.js";
import { bytes, percent, rate } from "./format.js";

export const PERIOD = 1500; // milliseconds

// Shares and rates of a row, from its totals now and a moment ago.
export function change(row, before, seconds) {
  if (!before || seconds <= 0) return { cpu: 0, received: 0, sent: 0 };
  const of = (name) => Math.max(row[name] - before[name], 0) / seconds;
  return { cpu: of("cpu"), received: of("received"), sent: of("sent") };
}

function block(row, moving, refresh) {
  const running = row.state === "running" || row.state === "paused";
  const values = running
    ? [["CPU", percent(moving.cpu)], ["Memory", row.isolation === "container" ? bytes(row.memory) : `${bytes(row.memory)} of ${bytes(row.pss)}`],
       ["Disk", bytes(row.disk)], ["Network", `↓ ${rate(moving.received)} ↑ ${rate(moving.sent)}`]]
    : [["Disk", bytes(row.disk)], ...(row.state === "created" && !row.exit ? [] : [["Exit code", String(row.exit)]])]; // what never ran has none
  return h("li", { "data-id": row.id },
    h("div", { class: `block ${row.isolation} ${running ? "running" : ""}` },
      h("a", { href: `#/containers/${row.id}` },
        h("strong", {}, row.name), " ", h("span", { class: `state ${row.state}` }, row.health || row.state), h("div", { class: "soft" }, row.image),
        running && h("meter", { min: 0, max: 1, value: Math.min(moving.cpu, 1), "aria-label": `CPU of ${row.name}` }),
        h("dl", {}, values.map(([name, value]) => [h("dt", {}, name), h("dd", {}, value)]))),
      h("div", { class: "actions" }, buttons(row, refresh, refresh, ["start", "stop", "unpause"])),
      row.isolation !== "container" && running && h("div", { class: "under" }, `guest OS: ${bytes(Math.max(row.guest - row.memory, 0))}`)));
}

const layer = (kind, name, text) => h("div", { class: `layer ${kind}` }, h("span", {}, name), h("span", {}, text));

function stack(title, empty, rows, moving, refresh, layers) {
  return h("section", { class: "stack" }, h("h2", {}, title),
    rows.length ? h("ul", { class: "blocks" }, rows.map((row) => block(row, moving(row), refresh))) : h("p", { class: "blocks soft" }, empty),
    layers);
}

function draw(view, now, before, refresh) {
  const rows = (state) => new Map(state?.containers.map((row) => [row.id, row]));
  const earlier = rows(before), seconds = before ? now.time - before.time : 0;
  const moving = (row) => change(row, earlier.get(row.id), seconds);
  const shared = now.containers.filter((row) => row.isolation === "container"), own = now.containers.filter((row) => row.isolation !== "container");
  const engine = Object.values(now.engine).reduce((sum, row) => sum + (row.memory ?? 0), 0);
  const overhead = own.reduce((sum, row) => sum + Math.max(row.pss - row.guest, 0), 0);
  const busy = before ? Math.min((now.host.busy - before.host.busy) / seconds / now.host.cpus, 1) : 0;
  const base = () => [
    layer("host", "host OS", `Linux ${now.host.kernel}, CPU ${percent(busy)}`),
    layer("base", "infrastructure", `${now.host.name}: ${now.host.cpus} CPUs, ${bytes(now.host.available)} of ${bytes(now.host.memory)} free`)];
  // Whoever has the keyboard keeps it over a new picture.
  const active = document.activeElement?.closest("[data-id]")?.dataset.id, label = document.activeElement?.getAttribute("aria-label"), tag = document.activeElement?.tagName;
  view.replaceChildren(h("div", { class: "stacks" },
    stack("Containers: one kernel for all", "No container", shared, moving, refresh, [layer("engine", "engine", `sampand and keeper, ${bytes(engine)}`), ...base()]),
    stack("Virtual machines: a kernel for each", "No virtual machine", own, moving, refresh,
      [layer("hypervisor", "hypervisor", `QEMU ${now.accelerator ? `under ${now.accelerator}` : ""}, ${bytes(overhead)}`), ...base()])));
  if (active) {
    const found = [...view.querySelectorAll(`[data-id="${active}"] ${tag}`)];
    (found.find((element) => element.getAttribute("aria-label") === label) ?? found[0])?.focus();
  }
}

export async function overview(view, signal) {
  let before = null;
  async function refresh() {
    const now = await call("GET", "/sampan/overview", undefined, signal);
    if (signal.aborted) return;
    draw(view, now, before, refresh);
    before = now;
  }
  await refresh();
  const timer = setInterval(() => { if (!document.hidden) refresh().catch(() => {}); }, PERIOD);
  signal.addEventListener("abort", () => clearInterval(timer));
}
