// One item on stage: all systems' clips side by side in step, and below them sound and scores on one time axis.

const MOST_AT_ONCE = 12; // more videos than this start hidden; the menu brings them in
const RATES = [0.25, 0.5, 1, 1.5, 2];

const clipOf = new Map(data.clips.map((clip) => [`${clip.system},${clip.item}`, clip]));

const stage = {
  dialog: byId("stage"),
  item: null,
  output: null,
  players: null,
  hidden: new Set(),
  heard: 0, // system whose sound the reader wants; stays from item to item
  order: [], // items that previous and next go through
};

/** Peaks of a clip's sound, 0 to 255. */
function peaksOf(clip) {
  const wave = clip && clip.wave !== null ? data.waves[clip.wave] : null;
  return wave && { seconds: wave.seconds, peaks: Uint8Array.from(atob(wave.peaks), (byte) => byte.charCodeAt(0)) };
}

const UNSCORED = { id: null, label: "Not scored yet", unit: "1", better: null, scale: 1, digits: 2 };
const outputOf = (id) => outputs.get(id) ?? UNSCORED;
const scoreOf = (output, system, item) => data.scores[output]?.[system][item] ?? null;

const takesPart = (system, item) => data.systems[system].tiers?.includes(data.items[item].tier) ?? true;

/** Why there is no number: the reason, and the whole sentence. */
function gapOf(output, system, item) {
  const position = data.gaps[output]?.[`${system},${item}`];
  if (position !== undefined) return data.reasons[position];
  const problem = clipOf.get(`${system},${item}`)?.problem;
  if (problem) return problem;
  if (!takesPart(system, item)) return { status: "skipped", reason: "", message: "this system takes no part in this tier" };
  return clipOf.has(`${system},${item}`)
    ? { status: "missing", reason: "not scored", message: "no row for this output" }
    : { status: "missing", reason: "no clip", message: "this system has no clip of this item" };
}

function openItem(position) {
  closePlayers();
  stage.item = position;
  const item = data.items[position];
  byId("stage-title").textContent = item.id;
  const seconds = item.seconds ? `${Number(item.seconds.toFixed(2))} s` : "";
  const tier = data.tiers.find((each) => each.name === item.tier)?.title ?? item.tier;
  byId("stage-facts").textContent = [tier, item.identity, seconds, item.language, ...item.tags].filter(Boolean).join(" · ");
  if (item.text) byId("stage-facts").append(el("q", {}, item.text));
  const scored = data.outputs.filter((output) => data.systems.some((_, system) => scoreOf(output.id, system, position) !== null));
  if (!scored.some((output) => output.id === stage.output)) stage.output = scored[0]?.id ?? null;
  fill(byId("stage-output"), scored.map((output) => [output.id, headOf(output)]), stage.output);
  const playable = data.systems.map((_, system) => system).filter((system) => clipOf.get(`${system},${position}`)?.url);
  if (!stage.hidden.size && playable.length > MOST_AT_ONCE) stage.hidden = new Set(playable.slice(MOST_AT_ONCE));
  fillMenu(playable);
  showTiles(playable);
  const place = stage.order.indexOf(position);
  byId("stage-previous").disabled = place <= 0;
  byId("stage-next").disabled = place < 0 || place >= stage.order.length - 1;
  if (!stage.dialog.open) stage.dialog.showModal();
  byId("play").focus();
}

function closePlayers() {
  stage.players?.destroy();
  stage.players = null;
  byId("tiles").replaceChildren();
}

function fillMenu(playable) {
  const box = byId("stage-systems").querySelector("div");
  byId("stage-systems").hidden = playable.length < 2;
  box.replaceChildren(
    ...playable.map((system) => {
      const input = el("input", { type: "checkbox", checked: !stage.hidden.has(system) });
      input.addEventListener("change", () => {
        if (input.checked) stage.hidden.delete(system);
        else stage.hidden.add(system);
        const { time, playing } = stage.players;
        closePlayers();
        showTiles(playable, time);
        if (playing) stage.players.play();
      });
      return el("label", {}, input, swatch(system), data.systems[system].name);
    }),
  );
}

function showTiles(playable, at = 0) {
  const shown = playable.filter((system) => !stage.hidden.has(system));
  const tiles = shown.map((system, i) => tileOf(system, i));
  byId("tiles").replaceChildren(...tiles.map((tile) => tile.element));
  stage.shown = shown;
  stage.players = new Players(tiles.map((tile) => tile.track));
  stage.players.addEventListener("time", showTime);
  stage.players.addEventListener("state", showState);
  stage.players.setRate(Number(byId("rate").value));
  stage.players.setLoop(byId("loop").getAttribute("aria-pressed") === "true");
  const hears = (system) => clipOf.get(`${system},${stage.item}`).audio;
  const heard = shown.includes(stage.heard) && hears(stage.heard) ? stage.heard : shown.find(hears);
  stage.players.setSound(heard === undefined ? null : shown.indexOf(heard));
  showAbsent(playable);
  fitTiles();
  showTimeline();
  if (at) stage.players.seek(at);
  else showTime();
}

function tileOf(system, place) {
  const clip = clipOf.get(`${system},${stage.item}`);
  const { name, description } = data.systems[system];
  // The fragment makes browsers that load no picture ahead of time show the first one.
  const video = el("video", { src: `${clip.url}#t=0.001`, preload: "metadata", playsinline: true, "aria-label": `Clip of ${name}`, tabindex: "-1" });
  video.muted = true;
  const broken = el("p", { class: "broken", hidden: true });
  const screen = el("div", { class: "screen" }, video, broken);
  const sound = el("button", { type: "button", class: "icon sound", "aria-pressed": "false" }, icon("mute"));
  const score = el("span", { class: "score" });
  const element = el(
    "figure",
    { class: "tile", "data-system": system },
    el(
      "figcaption",
      { title: [name, description].filter(Boolean).join(": ") },
      place < 9 ? el("kbd", {}, String(place + 1)) : null,
      swatch(system),
      cuttableName(system),
      score,
      clip.audio ? sound : null,
    ),
    screen,
    clip.problem || clip.notes.length
      ? el("p", { class: "notes" }, [clip.problem && `${clip.problem.reason}: ${clip.problem.message}`, ...clip.notes].filter(Boolean).join("; "))
      : null,
  );
  sound.addEventListener("click", () => chooseSound(stage.players.sound === place ? null : place));
  video.addEventListener("click", () => stage.players.toggle());
  video.addEventListener("error", () => {
    if (!video.getAttribute("src")) return;
    broken.hidden = false;
    broken.textContent = "This browser cannot play the file, or it is gone.";
  });
  video.addEventListener("durationchange", () => showTimeline());
  element.addEventListener("pointerenter", () => timeline.emphasise(system));
  element.addEventListener("pointerleave", () => timeline.emphasise(null));
  return { element, track: { video, seconds: clip.seconds, frameRate: clip.frame_rate } };
}

function chooseSound(place) {
  const { players, shown } = stage;
  if (place !== null && (!shown[place] && shown[place] !== 0)) return;
  if (place !== null) stage.heard = shown[place];
  players.setSound(place);
  showTimeline();
}

function showAbsent(playable) {
  const absent = data.systems
    .map((_, system) => system)
    .filter((system) => !playable.includes(system) && takesPart(system, stage.item));
  byId("stage-absent").replaceChildren(
    ...absent.map((system) => {
      const clip = clipOf.get(`${system},${stage.item}`);
      const why = clip?.problem ? `${clip.problem.reason}: ${clip.problem.message}` : "no clip of this item";
      return el("li", {}, swatch(system), el("b", {}, data.systems[system].name), ` ${why}`);
    }),
  );
}

function commonest(values) {
  const counts = new Map();
  for (const value of values) counts.set(value, (counts.get(value) ?? 0) + 1);
  return [...counts].sort((a, b) => b[1] - a[1])[0][0];
}

/** Choose the number of columns that makes the tiles largest without scrolling, down to a readable width. */
function fitTiles() {
  const grid = byId("tiles");
  const body = byId("stage-body");
  const count = grid.children.length;
  if (!count) return;
  const shapes = stage.shown.map((system) => clipOf.get(`${system},${stage.item}`));
  const aspect = commonest(shapes.map(({ width, height }) => width / height));
  grid.style.setProperty("--aspect", aspect);
  const style = getComputedStyle(grid);
  const gap = parseFloat(style.columnGap) || 8;
  const texts = [...grid.children].map((tile) => [...tile.children].filter((part) => !part.matches(".screen")));
  const caption = 2 + Math.max(...texts.map((parts) => parts.reduce((sum, part) => sum + part.offsetHeight, 0)));
  const width = body.clientWidth - 2 * parseFloat(getComputedStyle(body).paddingLeft);
  const height = body.clientHeight - byId("stage-absent").offsetHeight - 2 * parseFloat(getComputedStyle(body).paddingTop);
  let best = { size: 0, columns: 1 };
  for (let columns = 1; columns <= count; columns++) {
    const rows = Math.ceil(count / columns);
    const byHeight = ((height - (rows - 1) * gap) / rows - caption) * aspect;
    const size = Math.min((width - (columns - 1) * gap) / columns, byHeight);
    if (size > best.size) best = { size, columns };
  }
  const least = width < 560 ? (width - gap) / 2 : 200;
  const size = Math.max(least, Math.min(best.size, 640));
  grid.style.setProperty("--tile", `${Math.floor(size)}px`);
}

function showScores() {
  const output = outputOf(stage.output);
  for (const element of byId("tiles").children) {
    const system = Number(element.dataset.system);
    const score = element.querySelector(".score");
    const value = scoreOf(output.id, system, stage.item);
    const gap = value === null ? gapOf(output.id, system, stage.item) : null;
    score.textContent = gap ? gap.reason : say(output, value);
    score.classList.toggle("gap", Boolean(gap));
    score.title = gap ? gap.message : `${output.label} of this clip`;
  }
}

const timeline = stage.dialog && new Plot(byId("timeline"), {
  onseek: (seconds) => stage.players?.seek(seconds),
  readout: (at) => {
    const curves = data.windows[stage.output] ?? {};
    return (stage.shown ?? [])
      .map((system) => [system, curves[`${system},${stage.item}`]])
      .filter(([, curve]) => curve && at < curve.values.length * curve.seconds)
      .map(([system, curve]) => [system, say(outputOf(stage.output), valueAt(curve, at))]);
  },
});

function showTimeline() {
  const { players, shown } = stage;
  if (!players) return;
  const curves = data.windows[stage.output] ?? {};
  const lines = shown
    .map((system) => ({ system, ...curves[`${system},${stage.item}`], end: clipOf.get(`${system},${stage.item}`).seconds }))
    .filter((line) => line.values);
  const heard = shown[players.sound] ?? shown.find((system) => peaksOf(clipOf.get(`${system},${stage.item}`)));
  const sound = heard === undefined ? null : peaksOf(clipOf.get(`${heard},${stage.item}`));
  const output = outputOf(stage.output);
  timeline.show({
    lines,
    until: Math.max(0.1, players.seconds),
    band: sound ? { height: 44, ...sound } : null,
    scale: output.scale,
    empty: output.id ? `${output.label} is one number per clip: it has no curve over time.` : "No clip of this item has a score.",
  });
  showScores();
  showTime();
}

function showTime() {
  const { players } = stage;
  if (!players) return;
  const { time, seconds } = players;
  timeline.setPlayhead(time);
  const frame = Math.min(Math.floor(time * players.frameRate + 1e-3), Math.max(0, Math.round(seconds * players.frameRate) - 1));
  byId("clock").textContent = `${sayTime(time)} / ${sayTime(seconds)}  frame ${frame}`;
  const slider = byId("timeline");
  slider.setAttribute("aria-valuemax", seconds.toFixed(2));
  slider.setAttribute("aria-valuenow", time.toFixed(2));
  slider.setAttribute("aria-valuetext", `${time.toFixed(2)} of ${seconds.toFixed(2)} seconds`);
  players.tracks.forEach((track, i) => {
    const over = !track.failed && time > (track.video.duration || track.seconds) + 0.02;
    byId("tiles").children[i]?.classList.toggle("over", over);
  });
}

function showState() {
  const { players } = stage;
  if (!players) return;
  setIcon(byId("play"), players.playing ? "pause" : "play", players.playing ? "Pause" : "Play");
  byId("loop").setAttribute("aria-pressed", String(players.loop));
  [...byId("tiles").children].forEach((element, i) => {
    const button = element.querySelector("button.sound");
    const name = data.systems[stage.shown[i]].name;
    element.classList.toggle("heard", players.sound === i);
    if (!button) return;
    setIcon(button, players.sound === i ? "sound" : "mute", players.sound === i ? `Mute ${name}` : `Hear ${name}`);
    button.setAttribute("aria-pressed", String(players.sound === i));
  });
  const silent = players.sound === null ? "no sound" : `sound: ${data.systems[stage.shown[players.sound]].name}`;
  byId("stage-status").textContent = players.waiting ? "waiting for the slowest clip" : silent;
}

function setRate(rate) {
  byId("rate").value = String(rate);
  stage.players?.setRate(rate);
}

const KEYS = {
  ArrowLeft: (players, event) => players.seek(players.time - (event.shiftKey ? 5 : 1)),
  ArrowRight: (players, event) => players.seek(players.time + (event.shiftKey ? 5 : 1)),
  ",": (players) => players.step(-1),
  ".": (players) => players.step(1),
  Home: (players) => players.seek(0),
  End: (players) => players.seek(players.seconds),
  "<": (players) => setRate(RATES[Math.max(0, RATES.indexOf(players.rate) - 1)]),
  ">": (players) => setRate(RATES[Math.min(RATES.length - 1, RATES.indexOf(players.rate) + 1)]),
  l: (players) => players.setLoop(!players.loop),
  p: () => byId("stage-previous").click(),
  n: () => byId("stage-next").click(),
};

stage.dialog?.addEventListener("keydown", (event) => {
  const { players } = stage;
  if (!players || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.target.matches("select, input")) return;
  if (event.key === " ") {
    // On a button, space presses the button; the play button is one.
    if (event.target.closest("button, summary, a")) return;
    players.toggle();
  } else if (/^[0-9]$/.test(event.key)) {
    chooseSound(event.key === "0" ? null : Number(event.key) - 1);
  } else if (KEYS[event.key]) {
    KEYS[event.key](players, event);
  } else {
    return;
  }
  event.preventDefault();
});

if (stage.dialog) {
  byId("play").addEventListener("click", () => stage.players?.toggle());
  byId("step-back").addEventListener("click", () => stage.players?.step(-1));
  byId("step-forth").addEventListener("click", () => stage.players?.step(1));
  byId("loop").addEventListener("click", () => stage.players?.setLoop(!stage.players.loop));
  byId("rate").addEventListener("change", (event) => setRate(Number(event.target.value)));
  byId("stage-output").addEventListener("change", (event) => {
    stage.output = event.target.value;
    showTimeline();
  });
  new ResizeObserver(fitTiles).observe(byId("stage-body"));
}
