// A terminal (xterm.js) on a shell in a container, or on a machine's console.

import { FitAddon } from "./vendor/addon-fit.mjs";
import { Terminal } from "./vendor/xterm.mjs";
import { socket } from "./api.js";
import { h } from "./dom.js";

export function terminal(panel, row, signal) {
  const place = h("div", { class: "terminal" });
  const note = h("p", { class: "soft" }, "F6 leaves the terminal.");
  const again = h("button", { type: "button" }, "New shell");
  again.addEventListener("click", () => terminal(panel, row, signal));
  panel.replaceChildren(h("div", { class: "actions" }, again), place, note);
  if (row.state !== "running") { note.textContent = `${row.name} does not run.`; return; }
  const screen = new Terminal({ cursorBlink: false, fontSize: 13, screenReaderMode: true, theme: { background: "#10151c" } });
  const fit = new FitAddon();
  screen.loadAddon(fit);
  screen.open(place);
  screen.attachCustomKeyEventHandler((event) => {
    if (event.key !== "F6") return true;
    if (event.type === "keydown") again.focus();
    return false;
  });
  const line = socket(`/sampan/containers/${row.id}/terminal${row.isolation === "machine" ? "?attach=1" : ""}`);
  const encoder = new TextEncoder();
  const size = () => { if (line.readyState === WebSocket.OPEN) line.send(JSON.stringify({ rows: screen.rows, columns: screen.cols })); };
  const watch = new ResizeObserver(() => fit.fit());
  line.addEventListener("open", () => { fit.fit(); size(); screen.focus(); });
  line.addEventListener("message", (event) => screen.write(new Uint8Array(event.data)));
  line.addEventListener("close", () => { note.textContent = "The shell has ended."; });
  screen.onData((text) => { if (line.readyState === WebSocket.OPEN) line.send(encoder.encode(text)); });
  screen.onResize(size);
  watch.observe(place);
  signal.addEventListener("abort", () => { watch.disconnect(); line.close(); screen.dispose(); });
}
