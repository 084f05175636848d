"use strict";
const data = JSON.parse($("recording").textContent);
const { grid, side, labels, units } = data;
const state = { rate: 0, batch: 0, noise: 0, protection: "none", attacker: "", frame: 0, compare: true, predict: false };
const strips = [];
let original, shown = false, vote = null, timer = null, quiz = { n: 0, right: 0, scene: null };

// ---- what was recorded

const sameNoise = (scene, noise) => scene.setting.protection !== "noise" || scene.setting.noise === noise;

function sceneAt(rate) {
  return data.scenes.find(({ setting }, i) => setting.rate === rate && setting.batch === grid.batches[state.batch] &&
    setting.protection === state.protection && sameNoise(data.scenes[i], grid.noises[state.noise]));
}

const scene = () => sceneAt(grid.rates[state.rate]);
const lowest = () => grid.rates[0];
const rowAt = (run) => Math.min(state.frame, run.frames - 1);
const isLast = (run) => !run.frames || state.frame >= run.frames - 1;
const reached = (run) => run.identified.filter(Boolean).length;

const iterationAt = (run) => (isLast(run) ? run.used : grid.frames[state.frame]);

function nearest(run, values) {
  const at = iterationAt(run);
  let found = null;
  run.iterations.forEach((iteration, i) => { if (iteration <= at) found = values[i]; });
  return found;
}

const psnrNow = (run) => (isLast(run) ? run.psnr.reduce((a, b) => a + b, 0) / run.psnr.length : nearest(run, run.mean_psnr));
const images = (n) => (n === 1 ? "1 image" : `${n} images`);
const number = (value) => (value === null || value === undefined ? "no number" : value.toPrecision(3));

// ---- the address

function read() {
  const given = new URLSearchParams(location.hash.slice(1));
  const place = (list, text, fallback) => { const i = list.findIndex((v) => String(v) === text); return i < 0 ? fallback : i; };
  const one = (list, text, fallback) => (list.includes(text) ? text : fallback);
  state.rate = place(grid.rates, given.get("rate"), Math.min(2, grid.rates.length - 1));
  state.batch = place(grid.batches, given.get("batch"), 0);
  state.noise = place(grid.noises, given.get("noise"), 0);
  state.protection = one(grid.protections, given.get("defense"), grid.protections[0]);
  state.attacker = one(grid.attackers, given.get("attack"), grid.attackers[0]);
  const frame = Number(given.get("step") ?? grid.frames.length);
  state.frame = Number.isInteger(frame) ? Math.min(Math.max(frame - 1, 0), grid.frames.length - 1) : 0;
  state.compare = given.get("compare") !== "0";
  state.predict = given.get("predict") === "1";
  state.stage = one(["data", "client", "update", "attack", "reconstruction"], given.get("stage"), "");
}

function write() {
  const hash = new URLSearchParams({
    rate: grid.rates[state.rate], batch: grid.batches[state.batch], noise: grid.noises[state.noise],
    defense: state.protection, attack: state.attacker, step: state.frame + 1,
    compare: Number(state.compare), predict: Number(state.predict),
  });
  if (state.stage) hash.set("stage", state.stage);
  history.replaceState(null, "", `#${hash}`);
}

// ---- drawing

function draw() {
  const now = scene(), run = now.runs[state.attacker], n = now.setting.batch, hidden = state.predict && !shown;
  controls(run);
  write();
  drawRow($("original"), original, 0, n, side);
  $("original-text").textContent = `${images(n)} that never left the client: ${labels.slice(0, n).join(", ")}.`;
  describe($("original"), $("original-text").textContent);
  document.querySelectorAll(".outcome").forEach((part) => {
    part.classList.toggle("covered", hidden);
    part.setAttribute("aria-hidden", String(hidden));
  });
  $("predict").hidden = !state.predict;
  $("question").textContent = `Your guess: how many of the ${images(n)} will be identified at the end, that is picked out of 1,000 others?`;
  $("verdict").textContent = shown && state.predict ? verdict(run, n) : "";
  document.querySelectorAll("[data-vote]").forEach((b) => b.setAttribute("aria-pressed", String(b.dataset.vote === vote)));
  outcome(run, n);
  masks(now, run, n);
  curves(run);
  beside(n);
  stage(now, run, n, hidden);
}

function outcome(run, n) {
  if (!run.frames) {
    blank($("now")); blank($("difference"));
    $("now-text").textContent = `No guess: ${run.failure}.`;
    $("difference-text").textContent = "Nothing to compare.";
  } else {
    drawRow($("now"), strips[run.strip], rowAt(run), n, side);
    drawDifference($("difference"), original, strips[run.strip], rowAt(run), n, side);
    const end = isLast(run) ? ` Ended: ${run.stopped}.` : "";
    $("now-text").textContent = `Iteration ${iterationAt(run)}: ${psnrNow(run).toFixed(1)} dB${n > 1 ? " on average" : ""}.${end}`;
    $("difference-text").textContent = isLast(run)
      ? `Black is equal. ${reached(run)} of ${images(n)} identified.` : "Black is equal, white is as far off as can be.";
  }
  describe($("now"), `Reconstruction. ${$("now-text").textContent}`);
  describe($("difference"), `Absolute difference. ${$("difference-text").textContent}`);
}

function masks(now, run, n) {
  const truth = now.masks.length ? unpacked(now.masks[0]) : null;
  const total = units.reduce((a, b) => a + b, 0);
  const isGiven = state.attacker === "knows" && truth !== null;
  const found = isGiven ? truth : run.masks.length && truth ? unpacked(run.masks[0]) : null;
  for (const canvas of [$("mask-true"), $("mask-found")]) canvas.getContext("2d").clearRect(0, 0, canvas.width, canvas.height);
  if (truth) drawMask($("mask-true"), truth, units);
  if (found) drawMask($("mask-found"), found, units, truth);
  const dropped = truth ? truth.slice(0, total).filter((bit) => !bit).length : 0;
  let text = `${dropped} of ${total} units dropped${n > 1 ? " for the first image" : ""}.`;
  if (!truth) text = "Without dropout there is no mask to guess.";
  else if (isGiven) text += " The attacker was given the mask.";
  else if (!found) text += run.failure ? " No guess." : " This attack returns no mask.";
  else if (run.agreement === null) text += " No unit leaves a trace to compare.";
  else text += ` Agreement: ${(100 * run.agreement).toFixed(1)}%${n > 1 ? " over all images" : ""}.`;
  $("mask-text").textContent = text;
  describe($("mask-true"), truth ? `True mask. ${text}` : text);
  describe($("mask-found"), found ? `Recovered mask. ${text}` : text);
}

function curves(run) {
  const options = { cursor: run.frames ? iterationAt(run) : null, last: run.used || null };
  drawCurve($("objective"), run.iterations, run.objective, { ...options, log: true });
  drawCurve($("psnr"), run.iterations, run.mean_psnr, { ...options, colour: "#b34700" });
  const first = run.objective[0], present = nearest(run, run.objective);
  $("objective-text").textContent = !run.frames ? "No search took place."
    : run.used === 1 ? `Solved at once; what is left unexplained: ${number(first)}.`
    : `From ${number(first)} to ${number(present)} so far: how badly the guess explains the gradient.`;
  const start = run.mean_psnr[0];
  $("psnr-text").textContent = !run.frames ? "No figure."
    : run.used === 1 ? `${psnrNow(run).toFixed(1)} dB, of at most 160 for an exact copy.`
    : `From ${start.toFixed(1)} to ${psnrNow(run).toFixed(1)} dB. The attacker cannot see this curve.`;
  $("objective").setAttribute("aria-label", `Curve of the objective. ${$("objective-text").textContent}`);
  $("psnr").setAttribute("aria-label", `Curve of PSNR. ${$("psnr-text").textContent}`);
}

function beside(n) {
  $("beside").hidden = !state.compare;
  const run = sceneAt(lowest()).runs[state.attacker];
  $("beside-rate").textContent = $("compare-rate").textContent = lowest();
  if (run.frames) drawRow($("without"), strips[run.strip], rowAt(run), n, side); else blank($("without"));
  $("without-text").textContent = run.frames ? `Iteration ${iterationAt(run)}: ${psnrNow(run).toFixed(1)} dB.` : `No guess: ${run.failure}.`;
  describe($("without"), `Reconstruction at p = ${lowest()}. ${$("without-text").textContent}`);
}

function stage(now, run, n, hidden) {
  const running = isLast(run) ? "reconstruction" : "attack", current = state.stage || running;
  document.querySelectorAll("[data-stage]").forEach((button) => {
    if (button.dataset.stage === current) button.setAttribute("aria-current", "step");
    else button.removeAttribute("aria-current");
  });
  const canvas = $("stage-picture"), text = $("stage-text"), p = now.setting.rate;
  const largest = now.layers.reduce((a, b) => (b[1] > a[1] ? b : a));
  canvas.hidden = current === "client";
  const name = data.attacks[state.attacker][now.setting.batch];
  const told = {
    data: () => { drawRow(canvas, original, 0, n, side); return `Data: ${images(n)} of ${side} x ${side} pixels. They stay with the client.`; },
    client: () => `Client: an untrained network of ${units.length || "several"} hidden layers` +
      (p ? `; dropout switches each of their ${units.join(" + ")} units off with probability ${p}, anew for every image.` : " without dropout."),
    update: () => { drawRow(canvas, strips[now.unit], 0, 1, side);
      return `Update: ${now.layers.length} tensors; the largest is ${largest[0]} with norm ${largest[1]}. The picture is what goes to one unit of the first layer: ${n > 1 ? "a mixture of the batch" : "the image times one number, as far as the defense leaves it"}.`; },
    attack: () => { if (run.frames && !hidden) drawRow(canvas, strips[run.strip], rowAt(run), n, side); else blank(canvas);
      return `Attack: ${name}. Read more with: fedsim show ${name}`; },
    reconstruction: () => { if (run.frames && !hidden) drawRow(canvas, strips[run.strip], run.frames - 1, n, side); else blank(canvas);
      return hidden ? "Reconstruction: hidden until you have guessed." : run.frames
        ? `Reconstruction: ${run.psnr.map((v) => v.toFixed(1)).join(", ")} dB; ${reached(run)} of ${images(n)} identified.` : `Reconstruction: none. ${run.failure}.`; },
  };
  text.textContent = told[current]();
  describe(canvas, text.textContent);
}

function controls(run) {
  const set = (id, index, list, text) => {
    $(id).max = list.length - 1; $(id).value = index;
    $(`${id}-value`).textContent = text;
    $(id).setAttribute("aria-valuetext", text);
  };
  set("rate", state.rate, grid.rates, String(grid.rates[state.rate]));
  set("batch", state.batch, grid.batches, images(grid.batches[state.batch]));
  set("noise", state.noise, grid.noises, state.protection === "noise" ? `${grid.noises[state.noise]} x RMS` : "(off)");
  $("noise").disabled = state.protection !== "noise";
  const hidden = state.predict && !shown;
  set("frame", state.frame, grid.frames, hidden || !run.frames ? String(grid.frames[state.frame]) : `${iterationAt(run)} of ${run.used}`);
  for (const name of ["protection", "attacker"])
    document.querySelectorAll(`[name="${name}"]`).forEach((radio) => {
      radio.checked = radio.value === state[name];
      radio.disabled = !grid[`${name}s`].includes(radio.value);
    });
  $("compare").checked = state.compare;
  $("predict-first").checked = state.predict;
  $("play").textContent = timer ? "Pause (space)" : "Play (space)";
  $("play").setAttribute("aria-pressed", String(Boolean(timer)));
}

// ---- lessons

function answer(run) {
  const count = run.frames ? reached(run) : 0;
  return count === 0 ? "none" : count === scene().setting.batch ? "all" : "some";
}

function verdict(run, n) {
  const fact = `It was ${answer(run)}: ${run.frames ? reached(run) : 0} of ${n}.`;
  return vote === null ? fact : vote === answer(run) ? `Right. ${fact}` : `You said ${vote}. ${fact}`;
}

function ask() {
  const pool = data.scenes.flatMap((s) => Object.entries(s.runs).filter(([, run]) => run.frames)
    .flatMap(([name, run]) => labels.slice(0, s.setting.batch).map((label, i) => ({ s, name, run, label, i }))));
  quiz.scene = pool[Math.floor(Math.random() * pool.length)];
  const { s, run, i } = quiz.scene, pen = blank($("quiz-picture"));
  pen.drawImage(strips[run.strip], i * side, (run.frames - 1) * side, side, side, 0, 0, 224, 224);
  describe($("quiz-picture"), "A reconstruction of one digit.");
  $("quiz-text").textContent = `An attack's result. Answer before you read on. So far ${quiz.right} of ${quiz.n} right.`;
  $("quiz-verdict").textContent = "";
  document.querySelectorAll("#quiz-answers button").forEach((b) => { b.disabled = false; });
}

function answered(digit) {
  const { s, name, run, label, i } = quiz.scene;
  quiz.n++;
  if (digit === label) quiz.right++;
  document.querySelectorAll("#quiz-answers button").forEach((b) => { b.disabled = true; });
  $("quiz-verdict").textContent = `${digit === label ? "Right" : "No"}, it was ${label}: ${data.attacks[name][s.setting.batch]}, ` +
    `p = ${s.setting.rate}, batch of ${s.setting.batch}, defense ${s.setting.protection}, ${run.psnr[i].toFixed(1)} dB.`;
  $("quiz-text").textContent = `${quiz.right} of ${quiz.n} right.`;
}

// ---- controls

function changed(values) {
  Object.assign(state, values);
  shown = false;
  vote = null;
  draw();
}

function stepTo(frame) {
  state.frame = Math.min(Math.max(frame, 0), grid.frames.length - 1);
  draw();
}

function play() {
  if (timer) { clearInterval(timer); timer = null; draw(); return; }
  if (state.frame >= grid.frames.length - 1) state.frame = 0;
  state.stage = "";
  timer = setInterval(() => {
    if (state.frame >= grid.frames.length - 1) { play(); return; }
    stepTo(state.frame + 1);
  }, 450);
  draw();
}

function listen() {
  for (const id of ["rate", "batch", "noise"]) $(id).addEventListener("input", () => changed({ [id]: Number($(id).value) }));
  $("frame").addEventListener("input", () => stepTo(Number($("frame").value)));
  for (const name of ["protection", "attacker"])
    document.querySelectorAll(`[name="${name}"]`).forEach((radio) => radio.addEventListener("change", () => changed({ [name]: radio.value })));
  $("compare").addEventListener("change", () => { state.compare = $("compare").checked; draw(); });
  $("predict-first").addEventListener("change", () => changed({ predict: $("predict-first").checked }));
  $("play").addEventListener("click", play);
  $("back").addEventListener("click", () => stepTo(state.frame - 1));
  $("forward").addEventListener("click", () => stepTo(state.frame + 1));
  $("reveal").addEventListener("click", () => { shown = true; draw(); });
  document.querySelectorAll("[data-vote]").forEach((b) => b.addEventListener("click", () => { if (!shown) { vote = b.dataset.vote; draw(); } }));
  document.querySelectorAll("[data-stage]").forEach((b) => b.addEventListener("click", () => {
    state.stage = state.stage === b.dataset.stage ? "" : b.dataset.stage; draw();
  }));
  $("controls").addEventListener("submit", (event) => event.preventDefault());
  for (let digit = 0; digit < 10; digit++) {
    const button = document.createElement("button");
    button.type = "button"; button.textContent = digit;
    button.addEventListener("click", () => answered(digit));
    $("quiz-answers").append(button);
  }
  $("quiz").addEventListener("click", () => { ask(); $("quiz-box").showModal(); });
  $("quiz-next").addEventListener("click", ask);
  $("quiz-close").addEventListener("click", () => $("quiz-box").close());
  addEventListener("hashchange", () => { read(); shown = false; vote = null; draw(); });
  addEventListener("keydown", (event) => {
    const type = event.target.type;
    if ($("quiz-box").open || event.ctrlKey || event.metaKey || event.altKey) return;
    const isArrow = event.key === "ArrowLeft" || event.key === "ArrowRight";
    if (isArrow && type !== "range" && type !== "radio") { stepTo(state.frame + (event.key === "ArrowRight" ? 1 : -1)); event.preventDefault(); }
    if (event.key === " " && event.target.tagName !== "BUTTON" && type !== "radio" && type !== "checkbox" && event.target.tagName !== "SUMMARY") {
      play(); event.preventDefault();
    }
  });
}

async function start() {
  const load = async (code) => { const image = new Image(); image.src = `data:image/png;base64,${code}`; await image.decode(); return image; };
  original = await load(data.originals);
  strips.push(...await Promise.all(data.strips.map(load)));
  read();
  listen();
  draw();
  document.body.dataset.ready = "yes";
}
start();
