// Curves of long clips: one line per system, single clips behind it, with slope, first failure and seams beside.

function showDrift() {
  const host = byId("drift-plot");
  if (!host) return;
  const tierTitles = new Map(data.tiers.map((tier) => [tier.name, tier.title]));
  const several = new Set(data.drift.map((entry) => entry.tier)).size > 1;
  const hidden = new Set();
  let entry = data.drift[0];

  const plot = new Plot(host, {
    readout: (at) =>
      entry.systems
        .filter(({ system, mean, seconds }) => !hidden.has(system) && at < mean.length * seconds)
        .map((each) => [each.system, say(outputs.get(entry.output), valueAt({ values: each.mean, seconds: each.seconds }, at))]),
  });
  host.setAttribute("role", "img");

  const select = byId("drift-output");
  fill(
    select,
    data.drift.map((each, i) => [String(i), headOf(outputs.get(each.output)) + (several ? `, ${tierTitles.get(each.tier)}` : "")]),
  );
  select.addEventListener("change", () => {
    entry = data.drift[select.value];
    draw();
  });

  function draw() {
    const output = outputs.get(entry.output);
    const shown = entry.systems.filter(({ system }) => !hidden.has(system));
    const curves = data.windows[entry.output] ?? {};
    const lines = [];
    const marks = [];
    for (const { system, mean, seconds, clips } of shown) {
      lines.push({ system, values: mean, seconds });
      if (clips.length > 1) for (const { item } of clips) lines.push({ system, faint: true, ...curves[`${system},${item}`] });
      const failed = clips.filter((clip) => clip.never_failed === false && clip.stable_seconds !== undefined);
      const first = failed.sort((a, b) => a.stable_seconds - b.stable_seconds)[0];
      const own = first && curves[`${system},${first.item}`];
      const value = own && valueAt(own, first.stable_seconds);
      if (value !== null && value !== undefined) marks.push({ system, at: first.stable_seconds + own.seconds / 2, value });
    }
    const until = Math.max(1, ...entry.systems.map(({ mean, seconds }) => mean.length * seconds));
    plot.show({ lines, marks, until, scale: output.scale, empty: "Every system is hidden." });
    host.setAttribute("aria-label", `${output.label} over time; the table below says slope, stable time and seams.`);
    legend();
  }

  function legend() {
    byId("drift-legend").tBodies[0].replaceChildren(
      ...entry.systems.map(({ system, clips, texts, period }) => {
        const shown = !hidden.has(system);
        const toggle = el("button", { type: "button", class: "toggle", "aria-pressed": String(shown) }, swatch(system), cuttableName(system));
        toggle.addEventListener("click", () => {
          if (!hidden.delete(system)) hidden.add(system);
          draw();
          byId("drift-legend").querySelector(`[data-system="${system}"] button`).focus();
        });
        const failed = clips.filter((clip) => clip.never_failed === false).length;
        const hasStable = texts.stable_seconds !== "–";
        const row = el(
          "tr",
          { "data-system": system, class: shown ? "" : "off" },
          el("th", { scope: "row" }, toggle),
          el("td", {}, texts.slope.replaceAll("-", "−")),
          hasStable ? stableCell(texts.stable_seconds, failed, clips.length) : el("td", {}, "–"),
          el("td", {}, texts.seam_strength, period ? el("small", {}, `every ${period}`) : null),
        );
        row.addEventListener("pointerenter", () => plot.emphasise(system));
        row.addEventListener("pointerleave", () => plot.emphasise(null));
        toggle.addEventListener("focus", () => toggle.matches(":focus-visible") && plot.emphasise(system));
        toggle.addEventListener("blur", () => plot.emphasise(null));
        return row;
      }),
    );
  }

  draw();
}

/** Clips that hold to their end were stable for at least their length. */
function stableCell(text, failed, count) {
  if (!failed) return el("td", {}, `≥ ${text.replace(/ ± 0$/, "")} s`);
  return el("td", {}, `${text} s`, el("small", {}, `${failed} of ${count} fail`));
}

showDrift();
