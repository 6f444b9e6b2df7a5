// Networks as a graph: who can reach whom.

import { call } from "./api.js";
import { h, svg } from "./dom.js";

const ROW = 54, LEFT = 300, WIDE = 220, MIDDLE = 470, RIGHT = 780;

function node(kind, name, below, x, y, href) {
  return svg(href ? "a" : "g", { class: kind, href, "aria-label": `${name}, ${below}` },
    svg("rect", { x, y: y - 20, width: WIDE, height: 40, rx: 6 }), svg("text", { x: x + 10, y: y - 3 }, name), svg("text", { x: x + 10, y: y + 13, class: "soft" }, below));
}

export async function networks(view, signal) {
  const [nets, now] = await Promise.all([call("GET", "/networks", undefined, signal), call("GET", "/sampan/overview", undefined, signal)]);
  const details = await Promise.all(nets.map((net) => call("GET", `/networks/${net.Id}`, undefined, signal)));
  const shown = details.filter((net) => net.Driver !== "null" && net.Driver !== "host");
  const running = now.containers.filter((row) => row.state === "running" || row.state === "paused");
  const sides = [running.filter((row) => row.isolation === "container"), running.filter((row) => row.isolation !== "container")];
  const height = Math.max(shown.length, ...sides.map((rows) => rows.length), 1) * ROW + 20;
  const place = (rows, index) => ((index + 0.5) * (height - 20)) / rows.length + 10;
  const centre = new Map(shown.map((net, index) => [net.Id, place(shown, index)]));
  const parts = [], words = [];
  sides.forEach((rows, side) => rows.forEach((row, index) => {
    const x = side ? RIGHT : LEFT - WIDE, y = place(rows, index);
    const on = shown.filter((net) => net.Containers?.[row.id]);
    for (const net of on) {
      const [from, to] = side ? [MIDDLE + WIDE, x] : [x + WIDE, MIDDLE];
      const [a, b] = side ? [centre.get(net.Id), y] : [y, centre.get(net.Id)];
      parts.push(svg("path", { d: `M${from} ${a} C${(from + to) / 2} ${a} ${(from + to) / 2} ${b} ${to} ${b}` }));
      words.push([row.name, net.Name, net.Containers[row.id].IPv4Address, net.Containers[row.id].IPv6Address]);
    }
    parts.push(node(row.isolation, row.name, on.length ? on.map((net) => net.Containers[row.id].IPv4Address.split("/")[0]).join(", ") : "no network", x, y, `#/containers/${row.id}`));
  }));
  shown.forEach((net) => parts.push(node("network", net.Name, `${net.Driver}${net.Internal ? ", internal" : ""} ${(net.IPAM?.Config ?? []).map((row) => row.Subnet).join(", ")}`, MIDDLE, centre.get(net.Id))));
  view.replaceChildren(h("h2", {}, "Networks"),
    h("div", { class: "card graph scroll" }, svg("svg", { viewBox: `60 0 ${RIGHT + WIDE - 40} ${height}`, role: "group", "aria-label": "Containers on the left, networks, virtual machines on the right" }, parts)),
    h("h3", {}, "Addresses"),
    h("table", {}, h("thead", {}, h("tr", {}, ["Container", "Network", "IPv4", "IPv6"].map((name) => h("th", { scope: "col" }, name)))),
      h("tbody", {}, words.map((row) => h("tr", {}, row.map((text) => h("td", {}, text)))))));
  if (!running.length) view.append(h("p", { class: "soft" }, "Nothing runs."));
}
