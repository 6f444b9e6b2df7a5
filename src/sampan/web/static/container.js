// One container or machine: what it uses over time, its logs, a terminal, its settings.

import { buttons } from "./actions.js";
import { call, frames } from "./api.js";
import { h, svg } from "./dom.js";
import { ago, bytes, percent, rate } from "./format.js";
import { change, PERIOD } from "./overview.js";

const KEPT = 120; // points of a chart

function chart(title, values, text) {
  const most = Math.max(...values, 1e-9);
  const line = values.map((value, index) => `${index ? "L" : "M"}${(index * 300) / (KEPT - 1)} ${68 - (value / most) * 64}`).join(" ");
  return h("figure", { class: "card chart" }, h("figcaption", {}, title, ": ", h("strong", {}, text)),
    svg("svg", { viewBox: "0 0 300 70", preserveAspectRatio: "none", "aria-hidden": "true" }, svg("path", { d: line })));
}

function logs(row, tty) {
  const box = h("pre", { class: "logs", tabindex: 0, role: "log", "aria-label": `Logs of ${row.name}` });
  return [box, async (signal) => {
    const decoders = [0, 1, 2].map(() => new TextDecoder());
    for await (const [stream, data] of frames(`/containers/${row.id}/logs?stdout=1&stderr=1&follow=1&tail=500`, tty, signal)) {
      const bottom = box.scrollTop + box.clientHeight >= box.scrollHeight - 30;
      box.append(h("span", { class: stream === 2 ? "err" : "" }, decoders[stream].decode(data, { stream: true })));
      while (box.childNodes.length > 5000) box.firstChild.remove();
      if (bottom) box.scrollTop = box.scrollHeight;
    }
  }];
}

function settings(found) {
  const host = found.HostConfig, networks = Object.entries(found.NetworkSettings?.Networks ?? {});
  const rows = [
    ["Id", found.Id], ["Image", found.Config.Image], ["Command", [found.Path, ...found.Args].join(" ")], ["Isolation", host.Isolation || "container"],
    ["Why", (found.IsolationReasons ?? []).join("; ")], ["Owner", found.Owner], ["Started", ago(found.State.StartedAt)], ["Error", found.State.Error],
    ["Networks", networks.map(([name, each]) => `${name} ${each.IPAddress}`).join(", ")],
    ["Mounts", (found.Mounts ?? []).map((row) => `${row.Source || row.Type} → ${row.Destination}`).join(", ")],
    ["Environment", (found.Config.Env ?? []).join("\n")],
  ];
  return h("table", {}, h("tbody", {}, rows.filter(([, value]) => value).map(([name, value]) => h("tr", {}, h("th", { scope: "row" }, name), h("td", { class: "mono" }, value)))));
}

export async function container(view, signal, id) {
  const inspect = await call("GET", `/containers/${id}/json`, undefined, signal);
  const history = [];
  const head = h("div", {}), charts = h("div", { class: "charts" }), panel = h("div", { role: "tabpanel", tabindex: -1 });
  let row = null, before = null, leave = new AbortController();
  signal.addEventListener("abort", () => leave.abort());

  const tabs = { Logs: openLogs, Terminal: openTerminal, Settings: openSettings };
  const strip = h("div", { class: "tabs", role: "tablist", "aria-label": "What to show" }, Object.keys(tabs).map((name) =>
    h("button", { type: "button", role: "tab", "aria-selected": "false", onclick: () => select(name) }, name)));
  strip.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    const all = [...strip.children], next = all[(all.indexOf(document.activeElement) + step + all.length) % all.length];
    next.focus();
    next.click();
  });

  function select(name) {
    leave.abort();
    leave = new AbortController();
    for (const tab of strip.children) { const mine = tab.textContent === name; tab.setAttribute("aria-selected", mine); tab.tabIndex = mine ? 0 : -1; }
    panel.setAttribute("aria-label", name);
    tabs[name](leave.signal);
  }

  function openLogs(inner) {
    const [box, follow] = logs(row, inspect.Config.Tty);
    panel.replaceChildren(box);
    follow(inner).catch((error) => { if (error.name !== "AbortError") box.append(h("span", { class: "err" }, `${error.message}\n`)); });
  }
  async function openTerminal(inner) {
    try {
      const { terminal } = await import("./terminal.js");
      terminal(panel, row, inner);
    } catch (error) { panel.replaceChildren(h("p", {}, `The terminal is not there: ${error.message}. In a checkout, sh scripts/assets fetches it.`)); }
  }
  async function openSettings() { panel.replaceChildren(settings(await call("GET", `/containers/${id}/json`))); }

  async function refresh() {
    const now = await call("GET", "/sampan/overview", undefined, signal);
    const found = now.containers.find((each) => each.id === inspect.Id);
    if (signal.aborted) return;
    if (!found) { location.hash = "#/"; return; }
    const moving = change(found, before?.row, before ? now.time - before.time : 0);
    const changed = row?.state !== found.state;
    row = found;
    before = { row: found, time: now.time };
    history.push({ ...moving, memory: found.memory });
    if (history.length > KEPT) history.shift();
    if (changed) {
      head.replaceChildren(h("h2", {}, found.name, " ", h("span", { class: `state ${found.state}` }, found.state)),
        h("p", { class: "soft" }, `${found.image}, ${found.isolation === "container" ? "on the host's kernel" : "with a kernel of its own"}${found.ports.length ? `, ports ${found.ports.join(", ")}` : ""}`),
        h("div", { class: "actions" }, buttons(found, refresh, () => { location.hash = "#/"; })));
    }
    const last = history.at(-1), of = (name) => history.map((point) => point[name]);
    charts.replaceChildren(chart("CPU", of("cpu"), percent(last.cpu)), chart("Memory", of("memory"), bytes(last.memory)),
      chart("Received", of("received"), rate(last.received)), chart("Sent", of("sent"), rate(last.sent)));
  }

  await refresh();
  view.replaceChildren(head, charts, strip, panel);
  select("Logs");
  const timer = setInterval(() => { if (!document.hidden) refresh().catch(() => {}); }, PERIOD);
  signal.addEventListener("abort", () => clearInterval(timer));
}
