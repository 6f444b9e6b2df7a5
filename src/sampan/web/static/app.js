// The page: which view is shown, and what all of them have.

import * as api from "./api.js";
import { h, say } from "./dom.js";
import { overview } from "./overview.js";
import { container } from "./container.js";
import { images, image } from "./images.js";
import { networks } from "./networks.js";
import { compare } from "./compare.js";
import { runDialog } from "./run.js";

const VIEWS = [
  [/^\/$/, overview, "Overview"], [/^\/containers\/([\w.-]+)$/, container, "Container"], [/^\/images$/, images, "Images"],
  [/^\/images\/(.+)$/, image, "Image"], [/^\/networks$/, networks, "Networks"], [/^\/compare(?:\/(.+))?$/, compare, "Compare"],
];
let leave = new AbortController();

async function show() {
  if (!location.hash.startsWith("#/")) return;
  const path = location.hash.slice(1);
  leave.abort();
  leave = new AbortController();
  const view = document.getElementById("view");
  view.replaceChildren();
  for (const link of document.querySelectorAll("nav a")) {
    const mine = link.hash === "#/" ? path === "/" || path.startsWith("/containers") : path.startsWith(link.hash.slice(1));
    if (mine) link.setAttribute("aria-current", "page"); else link.removeAttribute("aria-current");
  }
  const found = VIEWS.find(([pattern]) => pattern.test(path));
  if (!found) { view.append(h("p", {}, "There is no such view.")); return; }
  const [pattern, draw, title] = found;
  document.title = `${title} · Sampan`;
  say("");
  try {
    await draw(view, leave.signal, ...pattern.exec(path).slice(1).map((part) => (part === undefined ? "" : decodeURIComponent(part))));
  } catch (error) {
    if (error.name !== "AbortError") fail(error);
  }
}

function fail(error) {
  if (error.status === 401) {
    document.getElementById("view").replaceChildren(h("p", {}, "This page needs an address of its own: run ", h("code", {}, "sampan ui"), " and open what it prints."));
  }
  say(error.message, true);
}

window.addEventListener("unhandledrejection", (event) => { if (event.reason?.name !== "AbortError") fail(event.reason); });
window.addEventListener("hashchange", async () => { await begin(); document.getElementById("view").focus(); });
document.getElementById("run").addEventListener("click", () => runDialog(show));
document.querySelector(".skip").addEventListener("click", (event) => { event.preventDefault(); document.getElementById("view").focus(); });

async function begin() {
  try {
    await api.enter();
    if (!location.hash.startsWith("#/")) location.replace("#/");
    await show();
  } catch (error) { fail(error); }
}

begin();
