// The list of items: sorted by any score, worst first, with heat; an address for every item (#item=...).

const PAGE_LENGTH = 60;

const list = {
  tier: null,
  output: null,
  order: "worst",
  system: "any",
  find: "",
  length: PAGE_LENGTH,
};

/** Distance from good: larger is worse. Without a direction, larger is simply more. */
function badness(output, value) {
  if (output.better === "higher") return -value;
  return output.better === "zero" ? Math.abs(value) : value;
}

function scoresOf(position) {
  return data.systems.map((_, system) => scoreOf(list.output, system, position));
}

/** What an item is sorted by: the chosen system's badness, or the worst (best) of any system. */
function sortKey(position) {
  const output = outputOf(list.output);
  const values = list.system === "any" ? scoresOf(position) : [scoresOf(position)[Number(list.system)]];
  const present = values.filter((value) => value !== null).map((value) => badness(output, value));
  if (!present.length) return null;
  return list.order === "worst" ? Math.max(...present) : Math.min(...present);
}

function chosenItems() {
  const wanted = list.find.trim().toLocaleLowerCase();
  const matches = ({ id, identity, tags, language, text }) =>
    [id, identity, language, text, ...tags].some((field) => field.toLocaleLowerCase().includes(wanted));
  const found = data.items
    .map((item, position) => ({ item, position }))
    .filter(({ item }) => item.tier === list.tier && (!wanted || matches(item)));
  if (list.order === "name") return found.sort((a, b) => a.item.id.localeCompare(b.item.id, undefined, { numeric: true }));
  const sign = list.order === "worst" ? -1 : 1;
  const keyed = found.map((each) => ({ ...each, key: sortKey(each.position) }));
  return keyed.sort((a, b) =>
    a.key === null || b.key === null ? (a.key === null) - (b.key === null) : sign * (a.key - b.key),
  );
}

/** The 5th and 95th percentile of badness on the tier: the ends of the heat scale, deaf to single outliers. */
function heatRange(output) {
  const all = data.items
    .flatMap((item, position) => (item.tier === list.tier ? scoresOf(position) : []))
    .filter((value) => value !== null)
    .map((value) => badness(output, value))
    .sort((a, b) => a - b);
  return [all[Math.floor(0.05 * (all.length - 1))], all[Math.ceil(0.95 * (all.length - 1))]];
}

function drawItems() {
  const output = outputOf(list.output);
  const found = chosenItems();
  stage.order = found.map(({ position }) => position);
  const systems = data.systems
    .map((_, system) => system)
    .filter((system) => data.items.some((item, position) => item.tier === list.tier && clipOf.has(`${system},${position}`)));
  const [low, high] = heatRange(output);
  const table = byId("item-list");
  table.tHead.replaceChildren(
    el(
      "tr",
      {},
      el("th", { scope: "col" }, "Item"),
      el("th", { scope: "col", class: "n" }, "Seconds"),
      ...systems.map((system) => {
        const press = () => change({ system: list.system === String(system) ? "any" : String(system), order: "worst" });
        const chosen = list.system === String(system) && list.order !== "name";
        const title = data.systems[system].description || data.systems[system].name;
        return el(
          "th",
          { scope: "col", title, "aria-sort": chosen ? "other" : undefined },
          el("button", { type: "button", class: "sort", onclick: press }, breakableName(system)),
        );
      }),
    ),
  );
  table.tBodies[0].replaceChildren(
    ...found.slice(0, list.length).map(({ item, position }) => rowOf(item, position, systems, output, low, high)),
  );
  const rest = found.length - list.length;
  byId("item-count").textContent = `${found.length} ${found.length === 1 ? "item" : "items"}${rest > 0 ? `, ${list.length} shown` : ""}`;
  byId("item-more").hidden = rest <= 0;
  document.querySelector(".scale").hidden = !output.better;
}

function rowOf(item, position, systems, output, low, high) {
  const open = el("a", { class: "open", href: `#item=${encodeURIComponent(item.id)}` }, icon("play"), item.id);
  const cells = systems.map((system) => {
    const value = scoreOf(output.id, system, position);
    if (value === null) {
      const gap = gapOf(output.id, system, position);
      return el("td", { class: "gap", title: gap.message }, gap.reason);
    }
    const cell = el("td", {}, say(output, value));
    if (output.better && high > low) {
      const heat = Math.min(1, Math.max(0, (badness(output, value) - low) / (high - low)));
      cell.style.setProperty("--share", `${Math.round(42 * heat)}%`);
    }
    return cell;
  });
  const row = el(
    "tr",
    {},
    el("th", { scope: "row", title: [item.identity, ...item.tags, item.text].filter(Boolean).join(" · ") }, open),
    el("td", { class: "n" }, item.seconds ? item.seconds.toFixed(2) : "–"),
    ...cells,
  );
  row.addEventListener("click", (event) => {
    if (!event.target.closest("a") && !getSelection().toString()) location.hash = open.hash;
  });
  return row;
}

/** Take new settings, keep the controls in step with them, and draw. */
function change(settings) {
  Object.assign(list, settings);
  const inTier = (output) =>
    data.scores[output.id].some((row) => row.some((value, i) => value !== null && data.items[i].tier === list.tier)) ||
    Object.keys(data.gaps[output.id] ?? {}).some((name) => data.items[name.split(",")[1]].tier === list.tier);
  const offered = data.outputs.filter(inTier);
  if (!offered.some((output) => output.id === list.output)) list.output = offered[0]?.id ?? null;
  const directed = outputOf(list.output).better;
  const controls = byId("item-controls").elements;
  const tiers = data.tiers.filter((tier) => data.items.some((item) => item.tier === tier.name));
  fill(controls.tier, tiers.map((tier) => [tier.name, tier.title]), list.tier);
  controls.tier.closest("label").hidden = tiers.length < 2;
  fill(controls.output, offered.map((output) => [output.id, headOf(output)]), list.output);
  controls.output.closest("label").hidden = !offered.length;
  fill(
    controls.order,
    [["worst", directed ? "worst first" : "highest first"], ["best", directed ? "best first" : "lowest first"], ["name", "by name"]],
    list.order,
  );
  fill(controls.system, [["any", "any system"], ...data.systems.map((system, i) => [String(i), system.name])], list.system);
  controls.system.closest("label").hidden = data.systems.length < 2;
  drawItems();
}

/** Show what the address asks for: an item on stage, or none. */
function followAddress() {
  const wanted = /^#item=(.*)$/.exec(location.hash)?.[1];
  let id = null;
  try {
    id = wanted === undefined ? null : decodeURIComponent(wanted);
  } catch {
    // A damaged address opens nothing.
  }
  const position = id === null ? -1 : data.items.findIndex((item) => item.id === id);
  if (position < 0) {
    if (stage.dialog.open) stage.dialog.close();
    return;
  }
  if (data.items[position].tier !== list.tier) change({ tier: data.items[position].tier });
  if (stage.dialog.open && stage.item === position) return;
  if (!stage.dialog.open) stage.output = list.output;
  openItem(position);
}

function goTo(step) {
  const position = stage.order[stage.order.indexOf(stage.item) + step];
  if (position !== undefined) location.replace(`#item=${encodeURIComponent(data.items[position].id)}`);
}

if (stage.dialog) {
  const controls = byId("item-controls");
  controls.addEventListener("submit", (event) => event.preventDefault());
  controls.addEventListener("input", ({ target }) => change({ [target.name]: target.value, length: PAGE_LENGTH }));
  byId("item-more").addEventListener("click", () => change({ length: list.length + PAGE_LENGTH }));
  byId("stage-previous").addEventListener("click", () => goTo(-1));
  byId("stage-next").addEventListener("click", () => goTo(1));
  byId("stage-close").addEventListener("click", () => stage.dialog.close());
  stage.dialog.addEventListener("close", () => {
    closePlayers();
    stage.item = null;
    // Without an entry of its own: going back leads to where the reader came from, not to a closed player.
    history.replaceState(null, "", location.pathname + location.search);
  });
  addEventListener("hashchange", followAddress);
  change({ tier: data.items[0].tier });
  followAddress();
}
