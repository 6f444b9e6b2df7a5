// Elements out of a name, properties and children. Texts are always texts: nothing that comes from a container is ever read as HTML.

const SVG = "http://www.w3.org/2000/svg";

function fill(element, properties, children) {
  for (const [name, value] of Object.entries(properties ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat(9).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

export const h = (name, properties, ...children) => fill(document.createElement(name), properties, children);
export const svg = (name, properties, ...children) => fill(document.createElementNS(SVG, name), properties, children);

// Asks before something is lost. Resolves to whether it is to be done.
export function confirmed(question, word) {
  return new Promise((resolve) => {
    const dialog = h("dialog", { "aria-labelledby": "question" },
      h("p", { id: "question" }, question),
      h("form", { method: "dialog", class: "actions" },
        h("button", { value: "no", autofocus: true }, "Cancel"), h("button", { value: "yes", class: "danger" }, word)));
    dialog.addEventListener("close", () => { dialog.remove(); resolve(dialog.returnValue === "yes"); });
    document.body.append(dialog);
    dialog.showModal();
  });
}

export function say(text, bad = false) {
  const line = document.getElementById("message");
  line.textContent = text;
  line.classList.toggle("bad", bad);
}
