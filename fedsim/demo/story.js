// The story in seven steps. Steps 1, 2, 4 and 5 compute in the page; 3, 6 and 7 show what was recorded.
const STEPS = [1, 2, 3, 4, 5, 6, 7], NETWORK_SEED = 5, MASK_SEED = 11, NOISE_SEED = 17, CLIP = 0.1;
const BATCHES = [1, 2, 4], RATES = [0, 0.25, 0.5, 0.75], NOISES = [0, 0.01, 0.03, 0.1, 0.3, 1, 3, 10];
const SLIDERS = { neuron: 0, images: 0, share: 0, level: 0 };
// What a step begins with, as places on its sliders.
const PRESETS = { 1: {}, 2: { images: 1 }, 3: { share: 2 }, 4: { images: 2, share: 2 }, 5: { images: 0 }, 6: {}, 7: {} };
const CHALLENGES = [
  { protection: "noise", noise: 0, attacker: "exact", batch: 0 },
  { attacker: "estimates", rate: 1, batch: 0 },
  { attacker: "exact", batch: Infinity, rate: 2 },
];
const network = makeNetwork(NETWORK_SEED), lab = { ...SLIDERS, clip: false };
let isSample = true, isBlank = false, isPlanned = false;

const others = () => lesson.sets.digits.labels.length;
const usesLab = () => [1, 2, 4, 5].includes(state.step);

// ---- what the pupil's browser computes

// The greys of a recorded digit.
function recordedGreys(at) {
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = SIDE;
  const ink = canvas.getContext("2d", { willReadFrequently: true });
  ink.drawImage(originals.digits, at * SIDE, 0, SIDE, SIDE, 0, 0, SIDE, SIDE);
  const { data } = ink.getImageData(0, 0, SIDE, SIDE);
  return Array.from({ length: SIDE * SIDE }, (_, i) => data[4 * i]);
}

function recordedDigits() {
  recordedDigits.known ??= Array.from({ length: others() }, (_, at) => recordedGreys(at));
  return recordedDigits.known;
}

// The pupil's drawing first, then recorded digits.
function labBatch() {
  const count = Math.min(BATCHES[lab.images], others()), own = recordedDigits().slice(1, count);
  return { greys: [greysOf($("pad")), ...own], labels: [0, ...lesson.sets.digits.labels.slice(1, count).map(Number)] };
}

function labGradient() {
  const { greys, labels } = labBatch(), rate = [4, 5].includes(state.step) ? RATES[lab.share] : 0;
  const batch = greys.map((own) => own.map((grey) => grey / 255));
  const masks = makeMasks(MASK_SEED, batch.length, rate);
  let gradient = gradientOf(network, batch, labels, masks, rate);
  if (state.step === 5 && lab.clip) gradient = clipped(gradient, CLIP);
  if (state.step === 5) gradient = noisy(gradient, NOISES[lab.level], NOISE_SEED);
  return { gradient, batch, greys };
}

const toGreys = (guess) => guess.map((value) => Math.round(255 * Math.min(1, Math.max(0, value))));

function picture(id, pictures, title, text) {
  drawPictures($(id), pictures, SIDE);
  put($(`${id}-text`), text);
  describe($(id), `${t(title)}. ${text}`);
}

const LAB = {
  1: drawNeuron, 2: (own) => { drawHeld(own); drawNeuron(own); }, 4: (own) => { drawHeld(own); drawTaken(own); },
  5: (own) => { drawHeld(own); drawAverage(own); drawTaken(own); },
};

function drawLab() {
  if (isBlank) {
    for (const canvas of document.querySelectorAll("#story-seen figure:not([hidden]) canvas")) { blank(canvas); describe(canvas, t("lab.empty")); }
    for (const caption of document.querySelectorAll("#story-seen figure:not([hidden]) figcaption")) put(caption, t("lab.empty"));
    return;
  }
  LAB[state.step](labGradient());
}

function drawNeuron({ gradient, batch }) {
  const begun = performance.now(), guess = solveUnit(gradient, lab.neuron), ms = performance.now() - begun;
  picture("row", [signedColours(rowOf(gradient, lab.neuron))], "lab.row", t("lab.rowtext", { bias: gradient.b1[lab.neuron].toExponential(2) }));
  if (guess === null) { blank($("ratio")); tell("ratio-text", "lab.dropped"); describe($("ratio"), t("lab.dropped")); return; }
  const alone = t("lab.difference", { gap: largestGap(guess, batch[0]).toExponential(0), ms: fixed(Math.max(0.1, ms)) });
  const mixture = t("lab.mixture", { images: images(batch.length), psnr: fixed(psnrOf(guess, batch[0])) });
  picture("ratio", [toGreys(guess)], "lab.solved", batch.length === 1 ? alone : mixture);
}

function drawHeld({ greys }) {
  picture("held", greys, "lab.held", t("lab.heldtext", { images: images(greys.length) }));
}

function drawTaken({ gradient, batch }) {
  const groups = separated(gradient);
  const found = groups.filter((group) => batch.some((pixels) => largestGap(pixels, group.pixels) < SAME_PIXELS));
  if (found.length) drawPictures($("found"), found.map((group) => toGreys(group.pixels)), SIDE); else blank($("found"));
  const units = found.reduce((sum, group) => sum + group.units.length, 0);
  tell("found-text", "lab.foundtext", { found: found.length, images: images(batch.length), units, all: UNITS });
  describe($("found"), `${t("lab.found")}. ${$("found-text").textContent}`);
}

function drawAverage({ gradient, batch }) {
  const guess = solveAll(gradient), told = [t("lab.averagetext", { psnr: fixed(psnrOf(guess, batch[0])) }), t("lab.norm", { norm: fixed(normOf(gradient), 2) })];
  picture("average", [toGreys(guess)], "lab.average", told.join(" "));
}

// ---- what was recorded

function drawSearch() {
  const rates = lesson.sets.digits.grid.rates, rate = rates[Math.min(lab.share, rates.length - 1)];
  const run = sceneOf("digits", { rate, batch: 1, protection: "none" })?.runs.ignores;
  drawRow($("held"), originals.digits, 0, 1, SIDE);
  tell("held-text", "pictures.stayed", { images: images(1), labels: lesson.sets.digits.labels[0] });
  describe($("held"), $("held-text").textContent);
  if (run?.frames) drawRow($("search"), strips[run.strip], run.frames - 1, 1, SIDE); else blank($("search"));
  if (run?.frames) tell("search-text", "pictures.guess", { iteration: run.used, psnr: fixed(run.psnr[0]) });
  else tell("search-text", "pictures.failure", { why: because(run?.failure ?? "") });
  describe($("search"), `${t("attacker.ignores")}. ${$("search-text").textContent}`);
}

// The most images that any attack identified, at the rate where it did best.
function mostIdentified(batch, protection, noise) {
  const { scenes } = lesson.sets.digits;
  const own = scenes.filter((one) => one.setting.batch === batch && one.setting.protection === protection && sameNoise(one, noise));
  return Math.max(...own.flatMap((one) => Object.values(one.runs).map(reached)));
}

function drawTable() {
  const { protections, noises, batches } = lesson.sets.digits.grid, sizes = [...new Set([batches[0], batches[batches.length - 1]])];
  const cell = (tag, text, values = {}) => Object.assign(document.createElement(tag), values, { textContent: text });
  const line = (...cells) => { const row = document.createElement("tr"); row.append(...cells); return row; };
  const heads = ["table.defense", ...sizes.map((n) => (n === 1 ? "table.one" : "table.many"))];
  $("table-head").replaceChildren(line(...heads.map((key, i) => cell("th", t(key, { n: sizes[i - 1] }), { scope: "col" }))));
  const rows = protections.flatMap((protection) => (protection === "noise" ? noises : noises.slice(0, 1)).map((noise) => ({ protection, noise })));
  $("table-body").replaceChildren(...rows.map((setting) => line(
    cell("th", defenseName(setting), { scope: "row" }),
    ...sizes.map((n) => {
      const count = mostIdentified(n, setting.protection, setting.noise), own = cell("td", t("table.of", { reached: count, n }));
      own.dataset.leaks = count === 0 ? "none" : count === n ? "all" : "some";
      return own;
    }))));
}

// ---- the steps

function drawStory() {
  document.querySelectorAll("[data-step]").forEach((b) => {
    if (Number(b.dataset.step) === state.step) b.setAttribute("aria-current", "step");
    else b.removeAttribute("aria-current");
  });
  for (const part of document.querySelectorAll("[data-steps]")) part.hidden = !part.dataset.steps.split(" ").includes(String(state.step));
  tell("story-step", "story.step", { n: state.step });
  tell("story-title", `story.${state.step}.title`);
  $("story-text").replaceChildren(...t(`story.${state.step}.text`).trim().split("\n").map((line) => {
    const paragraph = document.createElement("p");
    put(paragraph, line);
    return paragraph;
  }));
  $("story-back").disabled = state.step === 1;
  $("story-forward").disabled = state.step === STEPS.length;
  drawHandles();
  if (usesLab()) drawLab();
  if (state.step === 3) drawSearch();
  if (state.step === 6) drawTable();
}

function drawHandles() {
  const rates = state.step === 3 ? lesson.sets.digits.grid.rates : RATES;
  const set = (id, most, text) => { $(id).max = most; $(id).value = lab[id]; $(`${id}-value`).textContent = text; $(id).setAttribute("aria-valuetext", text); };
  set("neuron", UNITS - 1, t("lab.neuronvalue", { unit: lab.neuron + 1, units: UNITS }));
  set("images", BATCHES.filter((n) => n <= others()).length - 1, String(BATCHES[lab.images]));
  set("share", rates.length - 1, decimal(rates[Math.min(lab.share, rates.length - 1)]));
  set("level", NOISES.length - 1, t("controls.rms", { scale: decimal(NOISES[lab.level]) }));
  tell("images-name", state.step === 5 ? "lab.clients" : "lab.batch");
  tell("clip-name", "lab.clip", { norm: decimal(CLIP) });
  $("clip").checked = lab.clip;
}

function toStep(step) {
  state.step = Math.min(Math.max(step, 1), STEPS.length);
  beginStep();
  draw();
}

function beginStep() {
  const most = BATCHES.filter((n) => n <= others()).length - 1, preset = { ...SLIDERS, clip: false, ...PRESETS[state.step] };
  Object.assign(lab, preset, { images: Math.min(preset.images, most), neuron: lab.neuron });
}

function drawSample() {
  const strip = stripOf([recordedDigits()[0]], SIDE), pad = $("pad");
  wipe(pad);
  const ink = pad.getContext("2d", { willReadFrequently: true });
  ink.imageSmoothingEnabled = false;
  ink.drawImage(strip, 0, 0, pad.width, pad.height);
  isSample = true;
  isBlank = false;
}

// At most once a frame, since a pen moves faster than the network learns.
function drawSoon() {
  if (isPlanned) return;
  isPlanned = true;
  requestAnimationFrame(() => { isPlanned = false; if (usesLab()) drawLab(); });
}

function openSliders(values) {
  const { batches, rates, noises, frames } = lesson.sets.digits.grid, within = (at, list) => Math.min(at, list.length - 1);
  state.set = "digits";
  Object.assign(state, { view: "sliders", protection: "none", compare: true, stage: "", frame: frames.length - 1, rate: within(2, rates), noise: 0, ...values });
  state.batch = within(state.batch, batches);
  state.rate = within(state.rate, rates);
  state.noise = within(state.noise, noises);
  changed({});
}

function listenToStory() {
  beginStep();
  drawSample();
  document.querySelectorAll("[data-step]").forEach((b) => b.addEventListener("click", () => toStep(Number(b.dataset.step))));
  $("story-back").addEventListener("click", () => toStep(state.step - 1));
  $("story-forward").addEventListener("click", () => toStep(state.step + 1));
  for (const id of Object.keys(SLIDERS))
    $(id).addEventListener("input", () => { lab[id] = Number($(id).value); draw(); });
  $("clip").addEventListener("change", () => { lab.clip = $("clip").checked; draw(); });
  document.querySelectorAll("[data-challenge]").forEach((b) =>
    b.addEventListener("click", () => openSliders(CHALLENGES[Number(b.dataset.challenge)])));
  listenToPen($("pad"), { begun: () => { if (isSample) wipe($("pad")); isSample = isBlank = false; }, moved: drawSoon, ended: drawSoon });
  $("pad-clear").addEventListener("click", () => { wipe($("pad")); isSample = false; isBlank = true; draw(); });
  $("pad-sample").addEventListener("click", () => { drawSample(); draw(); });
}
