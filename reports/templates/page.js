// Shared helpers, theme, navigation and small controls. Names and messages reach the page as text nodes only.

const data = JSON.parse(document.getElementById("data").textContent);
const outputs = new Map(data.outputs.map((output) => [output.id, output]));
const byId = (id) => document.getElementById(id);

/** Make an element: attributes, listeners (onclick: ...) and children; strings become text. */
function el(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

function icon(name) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("class", "i");
  svg.setAttribute("aria-hidden", "true");
  svg.append(document.createElementNS("http://www.w3.org/2000/svg", "use"));
  svg.firstChild.setAttribute("href", `#i-${name}`);
  return svg;
}

function setIcon(button, name, label) {
  button.querySelector("use").setAttribute("href", `#i-${name}`);
  button.setAttribute("aria-label", label);
  button.title = label;
}

const numHues = Number(getComputedStyle(document.documentElement).getPropertyValue("--hues"));
const hueOf = (system) => `--s${system % numHues}`;
const dashOf = (system) => [[], [6, 3], [2, 2], [7, 3, 2, 3]][Math.floor(system / numHues) % 4];

function swatch(system) {
  const mark = el("span", { class: "swatch", "aria-hidden": "true" });
  mark.style.setProperty("--hue", `var(${hueOf(system)})`);
  mark.classList.toggle("dashed", system >= numHues);
  return mark;
}

/** Say a stored value as the tables print it. */
function say(output, value) {
  return value === null || value === undefined ? "–" : (value * output.scale).toFixed(output.digits).replace("-", "−");
}

/** Say a time: 0:04.32 for a clock, 4.3 s or 1:05 for an axis. */
function sayTime(seconds) {
  const minutes = Math.floor(seconds / 60);
  return `${minutes}:${(seconds - 60 * minutes).toFixed(2).padStart(5, "0")}`;
}

/** A name that is cut in the middle where it has no room: names of one family differ at their ends. */
function cuttableName(system) {
  const { name } = data.systems[system];
  const cut = name.length > 9 ? name.length - 3 : name.length;
  return el("span", { class: "name", title: name }, el("span", {}, name.slice(0, cut)), el("span", {}, name.slice(cut)));
}

/** A swatch and a name that may break after its underscores, but not between the two. */
function breakableName(system) {
  const [first, ...rest] = data.systems[system].name.split(/(?<=_)/);
  const parts = rest.flatMap((part) => [el("wbr"), part]);
  return el("span", {}, el("span", { class: "whole" }, swatch(system), first), ...parts);
}

function headOf(output) {
  const arrow = { higher: " ↑", lower: " ↓", zero: " →0" }[output.better] ?? "";
  return output.label + arrow;
}

function fill(select, choices, chosen) {
  select.replaceChildren(...choices.map(([value, text]) => el("option", { value, selected: value === chosen }, text)));
}

// Theme: as the system, light, dark. Canvases are redrawn, everything else follows the style sheet.

const colours = new Map();
const probe = el("span", { hidden: true });
document.body.append(probe);

/** Resolve a CSS variable to a colour a canvas understands. */
function colour(variable) {
  if (!colours.has(variable)) {
    probe.style.color = `var(${variable})`;
    colours.set(variable, getComputedStyle(probe).color);
  }
  return colours.get(variable);
}

const redraws = new Set();

function redrawAll() {
  colours.clear();
  for (const redraw of redraws) redraw();
}

function showTheme() {
  const theme = document.documentElement.dataset.theme ?? "auto";
  setIcon(byId("theme"), theme, `Theme: ${theme === "auto" ? "as the system" : theme}`);
  redrawAll();
}

byId("theme").addEventListener("click", () => {
  const root = document.documentElement;
  const next = { light: "dark", dark: undefined }[root.dataset.theme ?? ""] ?? (root.dataset.theme ? undefined : "light");
  if (next) root.dataset.theme = next;
  else delete root.dataset.theme;
  try {
    if (next) localStorage.setItem("talkbench-theme", next);
    else localStorage.removeItem("talkbench-theme");
  } catch {
    // The choice then lasts for this visit.
  }
  showTheme();
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redrawAll);
addEventListener("beforeprint", redrawAll);
addEventListener("afterprint", redrawAll);
showTheme();

// Navigation: mark the section that is being read.

const links = new Map([...document.querySelectorAll(".bar nav a")].map((link) => [link.hash.slice(1), link]));
const seen = new Set();
const spy = new IntersectionObserver(
  (entries) => {
    for (const entry of entries) seen[entry.isIntersecting ? "add" : "delete"](entry.target.id);
    const current = [...links.keys()].find((id) => seen.has(id));
    for (const [id, link] of links) {
      if (id === current) link.setAttribute("aria-current", "true");
      else link.removeAttribute("aria-current");
    }
  },
  { rootMargin: "-15% 0px -70% 0px" },
);
for (const id of links.keys()) if (byId(id)) spy.observe(byId(id));

// What scrolls sideways can be reached by keyboard; what fits needs no tab stop.

const scrollers = new ResizeObserver((entries) => {
  for (const { target } of entries) {
    if (target.scrollWidth > target.clientWidth) target.tabIndex = 0;
    else target.removeAttribute("tabindex");
  }
});
for (const box of document.querySelectorAll(".scroll")) scrollers.observe(box);

// Small controls.

byId("speed-output")?.addEventListener("change", (event) => {
  for (const view of byId("speed-views").children) view.hidden = view.dataset.output !== event.target.value;
});

for (const button of document.querySelectorAll("button.copy")) {
  button.addEventListener("click", async () => {
    const source = button.closest(".source").querySelector("pre");
    try {
      await navigator.clipboard.writeText(source.textContent);
      button.textContent = "Copied";
    } catch {
      getSelection().selectAllChildren(source);
      button.textContent = "Selected";
    }
    setTimeout(() => (button.textContent = "Copy"), 1500);
  });
}

byId("download").addEventListener("click", () => {
  const url = URL.createObjectURL(new Blob([JSON.stringify(data)], { type: "application/json" }));
  el("a", { href: url, download: `${data.run.name}.json` }).click();
  setTimeout(() => URL.revokeObjectURL(url), 1000);
});

// Open menus close when something else is pressed.
addEventListener("pointerdown", (event) => {
  for (const menu of document.querySelectorAll("details.menu[open]")) if (!menu.contains(event.target)) menu.open = false;
});
