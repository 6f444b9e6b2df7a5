// What can be done with a container or a machine, by its state.

import { call } from "./api.js";
import { confirmed, h, say } from "./dom.js";

const path = (row, word) => (row.isolation === "machine" ? `/sampan/vm/${row.name}/${word}` : `/containers/${row.id}/${word}`);

const POSSIBLE = [
  ["start", "Start", (row) => row.state === "exited" || row.state === "created" || row.state === "dead"],
  ["stop", "Stop", (row) => row.state === "running" || row.state === "restarting"],
  ["restart", "Restart", (row) => row.state === "running" && row.isolation !== "machine"],
  ["pause", "Pause", (row) => row.state === "running"],
  ["unpause", "Unpause", (row) => row.state === "paused"],
];

async function act(row, word, text, button, done) {
  button.disabled = true;
  say(`${text}: ${row.name} …`);
  try {
    await call("POST", path(row, word));
    say(`${text}: ${row.name}, done`);
  } catch (error) { say(error.message, true); }
  await done();
}

async function remove(row, done, gone) {
  if (!(await confirmed(`Remove ${row.name}? Its files are lost.`, "Remove"))) return;
  try {
    await call("DELETE", row.isolation === "machine" ? `/sampan/vm/${row.name}?force=1` : `/containers/${row.id}?force=1&v=1`);
    say(`${row.name} is removed`);
    await gone();
  } catch (error) { say(error.message, true); await done(); }
}

// Buttons for a row of the overview; `done` after an action, `gone` after the removal.
export function buttons(row, done, gone = done, words = POSSIBLE.map(([word]) => word)) {
  const found = POSSIBLE.filter(([word, , fits]) => words.includes(word) && fits(row)).map(([word, text]) => {
    const button = h("button", { type: "button", "aria-label": `${text} ${row.name}` }, text);
    button.addEventListener("click", () => act(row, word, text, button, done));
    return button;
  });
  const last = h("button", { type: "button", class: "danger", "aria-label": `Remove ${row.name}`, onclick: () => remove(row, done, gone) }, "Remove");
  return [...found, last];
}
