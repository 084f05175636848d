// The sliders: what was recorded at the state that they choose.
const lesson = JSON.parse($("recording").textContent);
const state = { view: "story", step: 1, set: "digits", rate: 0, batch: 0, noise: 0, protection: "none", attacker: "", frame: 0,
  compare: true, predict: false, stage: "" };
const STAGES = ["data", "client", "update", "attack", "reconstruction"];
const strips = [], originals = {};
let shown = false, vote = null, timer = null;

const data = () => lesson.sets[state.set];
const grid = () => data().grid;
const sameNoise = ({ setting }, noise) => setting.protection !== "noise" || setting.noise === noise;

function sceneOf(set, wanted) {
  return lesson.sets[set].scenes.find((scene) => scene.setting.rate === wanted.rate && scene.setting.batch === wanted.batch &&
    scene.setting.protection === wanted.protection && sameNoise(scene, wanted.noise));
}

const sceneAt = (rate) => sceneOf(state.set, { rate, batch: grid().batches[state.batch], protection: state.protection, noise: grid().noises[state.noise] });
const scene = () => sceneAt(grid().rates[state.rate]);
const lowest = () => grid().rates[0];
const rowAt = (run) => Math.min(state.frame, run.frames - 1);
const isLast = (run) => !run.frames || state.frame >= run.frames - 1;
const reached = (run) => run.identified.filter(Boolean).length;
// Of a few photographs nobody can say which are identified: a thousand others are missing.
const isJudged = () => data().scenes.some((scene) => Object.values(scene.runs).some((run) => run.identified.length));
const isPredicted = () => state.predict && isJudged();
const iterationAt = (run) => (isLast(run) ? run.used : grid().frames[state.frame]);
const decimal = (value) => value.toLocaleString(language);
const defenseName = (setting) => (setting.protection === "noise" ? t("table.noise", { scale: decimal(setting.noise) }) : t(`protection.${setting.protection}`));

function nearest(run, values) {
  const at = iterationAt(run);
  let found = null;
  run.iterations.forEach((iteration, i) => { if (iteration <= at) found = values[i]; });
  return found;
}

const mean = (values) => values.reduce((a, b) => a + b, 0) / values.length;
const psnrNow = (run) => (isLast(run) ? mean(run.psnr) : nearest(run, run.mean_psnr));
const number = (value) => (value === null || value === undefined ? t("curve.nonumber") : significant(value, 3));

// ---- drawing

function drawSliders() {
  const now = scene(), run = now.runs[state.attacker], n = now.setting.batch, hidden = isPredicted() && !shown;
  drawControls(run);
  drawRow($("original"), originals[state.set], 0, n, data().side);
  tell("original-text", "pictures.stayed", { images: images(n), labels: data().labels.slice(0, n).join(", ") });
  describe($("original"), $("original-text").textContent);
  document.querySelectorAll(".outcome").forEach((part) => {
    part.classList.toggle("covered", hidden);
    part.setAttribute("aria-hidden", String(hidden));
  });
  $("predict").hidden = !isPredicted();
  tell("question", "predict.question", { images: images(n) });
  $("verdict").textContent = shown && isPredicted() ? verdict(run, n) : "";
  document.querySelectorAll("[data-vote]").forEach((b) => b.setAttribute("aria-pressed", String(b.dataset.vote === vote)));
  drawOutcome(run, n);
  drawMasks(now, run, n);
  drawCurves(run);
  drawBeside(n);
  drawStage(now, run, n, hidden);
  drawThreat(now.setting);
}

function drawOutcome(run, n) {
  if (!run.frames) {
    blank($("now")); blank($("difference"));
    tell("now-text", "pictures.failure", { why: because(run.failure) });
    tell("difference-text", "pictures.nothing");
  } else {
    drawRow($("now"), strips[run.strip], rowAt(run), n, data().side);
    drawDifference($("difference"), originals[state.set], strips[run.strip], rowAt(run), n, data().side);
    const course = t(n > 1 ? "pictures.average" : "pictures.guess", { iteration: iterationAt(run), psnr: fixed(psnrNow(run)) });
    put($("now-text"), isLast(run) ? `${course} ${t("pictures.ended", { why: because(run.stopped) })}` : course);
    if (isLast(run) && isJudged()) tell("difference-text", "pictures.identified", { reached: reached(run), images: images(n) });
    else tell("difference-text", "pictures.equal");
  }
  describe($("now"), `${t("stage.reconstruction")}. ${$("now-text").textContent}`);
  describe($("difference"), `${t("pictures.difference")}. ${$("difference-text").textContent}`);
}

function drawMasks(now, run, n) {
  const { units } = data(), truth = now.masks.length ? unpacked(now.masks[0]) : null;
  const total = units.reduce((a, b) => a + b, 0);
  const isGiven = state.attacker === "knows" && truth !== null;
  const found = isGiven ? truth : run.masks.length && truth ? unpacked(run.masks[0]) : null;
  for (const canvas of [$("mask-true"), $("mask-found")]) canvas.getContext("2d").clearRect(0, 0, canvas.width, canvas.height);
  if (truth) drawMask($("mask-true"), truth, units);
  if (found) drawMask($("mask-found"), found, units, truth);
  const dropped = truth ? truth.slice(0, total).filter((bit) => !bit).length : 0;
  const parts = [truth ? t(n > 1 ? "masks.first" : "masks.dropped", { dropped, total }) : t("masks.absent")];
  if (isGiven) parts.push(t("masks.given"));
  else if (truth && !found) parts.push(t(run.failure ? "masks.failed" : "masks.none"));
  else if (truth && run.agreement === null) parts.push(t("masks.traceless"));
  else if (truth) parts.push(t(n > 1 ? "masks.over" : "masks.agreement", { share: fixed(100 * run.agreement) }));
  const text = parts.join(" ");
  put($("mask-text"), text);
  describe($("mask-true"), `${t("pictures.mask")}, ${t("pictures.true")}. ${text}`);
  describe($("mask-found"), `${t("pictures.mask")}, ${t("pictures.recovered")}. ${text}`);
}

function drawCurves(run) {
  const options = { cursor: run.frames ? iterationAt(run) : null, last: run.used || null };
  drawCurve($("objective"), run.iterations, run.objective, { ...options, log: true });
  drawCurve($("psnr"), run.iterations, run.mean_psnr, { ...options, kind: "psnr" });
  const first = number(run.objective[0]);
  if (!run.frames) { tell("objective-text", "curve.nosearch"); tell("psnr-text", "curve.nofigure"); }
  else if (run.used === 1) { tell("objective-text", "curve.solved", { value: first }); tell("psnr-text", "curve.exact", { psnr: fixed(psnrNow(run)) }); }
  else {
    tell("objective-text", "curve.explains", { first, now: number(nearest(run, run.objective)) });
    tell("psnr-text", "curve.course", { first: fixed(run.mean_psnr[0]), now: fixed(psnrNow(run)) });
  }
  describe($("objective"), `${t("curve.objective")}. ${$("objective-text").textContent}`);
  describe($("psnr"), `${t("curve.psnr")}. ${$("psnr-text").textContent}`);
}

function drawBeside(n) {
  $("beside").hidden = !state.compare;
  const run = sceneAt(lowest()).runs[state.attacker], rate = decimal(lowest());
  tell("beside-title", "pictures.beside", { rate });
  tell("compare-text", "controls.compare", { rate });
  if (run.frames) drawRow($("without"), strips[run.strip], rowAt(run), n, data().side); else blank($("without"));
  if (run.frames) tell("without-text", "pictures.guess", { iteration: iterationAt(run), psnr: fixed(psnrNow(run)) });
  else tell("without-text", "pictures.failure", { why: because(run.failure) });
  describe($("without"), `${t("pictures.beside", { rate })}. ${$("without-text").textContent}`);
}

function drawStage(now, run, n, hidden) {
  const current = state.stage || (isLast(run) ? "reconstruction" : "attack");
  document.querySelectorAll("[data-stage]").forEach((button) => {
    if (button.dataset.stage === current) button.setAttribute("aria-current", "step");
    else button.removeAttribute("aria-current");
  });
  $("stage-picture").hidden = current === "client";
  put($("stage-text"), STAGE[current](now, run, n, hidden));
  describe($("stage-picture"), $("stage-text").textContent);
}

// Each draws its picture and returns its text.
const STAGE = {
  data: (now, run, n) => {
    drawRow($("stage-picture"), originals[state.set], 0, n, data().side);
    return t("told.data", { images: images(n), side: data().side });
  },
  client: ({ setting }) => t(setting.rate ? "told.dropout" : "told.client", { layers: data().units.length, units: data().units.join(" + "), rate: decimal(setting.rate) }),
  update: (now, run, n) => {
    const [largest, norm] = now.layers.reduce((a, b) => (b[1] > a[1] ? b : a));
    drawRow($("stage-picture"), strips[now.unit], 0, 1, data().side);
    return t("told.update", { tensors: now.layers.length, largest, norm, what: t(n > 1 ? "told.mixture" : "told.alone") });
  },
  attack: (now, run, n, hidden) => {
    if (run.frames && !hidden) drawRow($("stage-picture"), strips[run.strip], rowAt(run), n, data().side); else blank($("stage-picture"));
    return t(`doing.${state.attacker}`, { name: data().attacks[state.attacker][n] });
  },
  reconstruction: (now, run, n, hidden) => {
    if (run.frames && !hidden) drawRow($("stage-picture"), strips[run.strip], run.frames - 1, n, data().side); else blank($("stage-picture"));
    if (hidden) return t("told.hidden");
    if (!run.frames) return t("told.none", { failure: because(run.failure) });
    return t(isJudged() ? "told.reconstruction" : "told.reconstructed", { psnr: run.psnr.map((value) => fixed(value)).join(", "), reached: reached(run), images: images(n) });
  },
};

// Who attacks, and what it sees and knows at these sliders.
function drawThreat({ rate, batch, protection }) {
  const has = { "dropout-rates": rate > 0, masks: rate > 0, defenses: false };
  const grants = data().grants[state.attacker].filter((grant) => has[grant] ?? true).map((grant) => t(`grant.${grant}`));
  const list = grants.length > 1 ? t("grant.and", { first: grants.slice(0, -1).join(", "), last: grants[grants.length - 1] }) : grants[0];
  const sentences = [
    t("threat.server"), t("threat.sees", { images: images(batch) }), t("threat.knows", { grants: list }),
    protection === "none" ? t("threat.undefended") : t("threat.defended", { defense: defenseName(scene().setting) }),
  ];
  if (rate === 0) sentences.push(t("threat.maskless"));
  else if (!data().grants[state.attacker].includes("masks")) sentences.push(t("threat.masks"));
  sentences.push(t(`threat.${state.set}`));
  $("threat").replaceChildren(...sentences.map((sentence) => { const item = document.createElement("li"); put(item, sentence); return item; }));
}

function drawControls(run) {
  const set = (id, index, list, text) => {
    $(id).max = list.length - 1; $(id).value = index;
    $(`${id}-value`).textContent = text;
    $(id).setAttribute("aria-valuetext", text);
  };
  const { rates, batches, noises, frames } = grid(), hidden = isPredicted() && !shown;
  set("rate", state.rate, rates, decimal(rates[state.rate]));
  set("batch", state.batch, batches, images(batches[state.batch]));
  set("noise", state.noise, noises, state.protection === "noise" ? t("controls.rms", { scale: decimal(noises[state.noise]) }) : t("controls.off"));
  $("noise").disabled = state.protection !== "noise";
  set("frame", state.frame, frames, hidden || !run.frames ? String(frames[state.frame]) : t("controls.of", { now: iterationAt(run), all: run.used }));
  for (const [name, key] of [["protection", "protections"], ["attacker", "attackers"]])
    document.querySelectorAll(`[name="${name}"]`).forEach((radio) => {
      radio.checked = radio.value === state[name];
      radio.disabled = !grid()[key].includes(radio.value);
    });
  document.querySelectorAll("[name=set]").forEach((radio) => { radio.checked = radio.value === state.set; });
  $("compare").checked = state.compare;
  $("predict-first").checked = state.predict;
  $("predict-first").disabled = !isJudged();
  tell("play", timer ? "controls.pause" : "controls.play");
  $("play").title = t("controls.space");
  $("play").setAttribute("aria-pressed", String(Boolean(timer)));
}

// ---- predict first

function answer(run) {
  const count = run.frames ? reached(run) : 0;
  return count === 0 ? "none" : count === scene().setting.batch ? "all" : "some";
}

function verdict(run, n) {
  const name = (own) => t(`predict.answer.${own}`);
  const fact = t("predict.was", { answer: name(answer(run)), reached: run.frames ? reached(run) : 0, n });
  return vote === null ? fact : vote === answer(run) ? t("predict.right", { fact }) : t("predict.said", { vote: name(vote), fact });
}
