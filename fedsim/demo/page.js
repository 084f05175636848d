// The recorded page: its address, its views and its controls.

function read() {
  const given = new URLSearchParams(location.hash.slice(1));
  const place = (list, text, fallback) => { const i = list.findIndex((v) => String(v) === text); return i < 0 ? fallback : i; };
  const one = (list, text, fallback) => (list.includes(text) ? text : fallback);
  state.view = [...given.keys()].some((key) => key !== "story" && key !== "language") ? "sliders" : "story";
  state.step = Number(one(STEPS.map(String), given.get("story"), "1"));
  language = one(Object.keys(texts.all), given.get("language"), language);
  state.set = one(Object.keys(lesson.sets), given.get("data"), "digits");
  const { rates, batches, noises, protections, attackers, frames } = grid();
  state.rate = place(rates, given.get("rate"), Math.min(2, rates.length - 1));
  state.batch = place(batches, given.get("batch"), 0);
  state.noise = place(noises, given.get("noise"), 0);
  state.protection = one(protections, given.get("defense"), protections[0]);
  state.attacker = one(attackers, given.get("attack"), attackers[0]);
  const frame = Number(given.get("step") ?? frames.length);
  state.frame = Number.isInteger(frame) ? Math.min(Math.max(frame - 1, 0), frames.length - 1) : 0;
  state.compare = given.get("compare") !== "0";
  state.predict = given.get("predict") === "1";
  state.stage = one(STAGES, given.get("stage"), "");
}

function addressOf(values) {
  const { rates, batches, noises } = grid();
  const hash = new URLSearchParams(values.view === "story" ? { story: values.step } : {
    rate: rates[values.rate], batch: batches[values.batch], noise: noises[values.noise],
    defense: values.protection, attack: values.attacker, step: values.frame + 1,
    compare: Number(values.compare), predict: Number(values.predict),
  });
  if (values.view !== "story" && values.set !== "digits") hash.set("data", values.set);
  if (values.view !== "story" && values.stage) hash.set("stage", values.stage);
  if (language !== texts.language) hash.set("language", language);
  return `#${hash}`;
}

function draw() {
  history.replaceState(null, "", addressOf(state));
  for (const view of ["story", "sliders"]) $(view).hidden = view !== state.view;
  document.querySelectorAll("[data-view]").forEach((b) => {
    if (b.dataset.view === state.view) b.setAttribute("aria-current", "page");
    else b.removeAttribute("aria-current");
  });
  hideWord();
  drawWords();
  if (state.view === "story") drawStory(); else drawSliders();
  drawQuiz();
}

function drawWords() {
  const own = Object.entries(texts.all[language]).filter(([key]) => key.startsWith("words."));
  $("word-list").replaceChildren(...own.flatMap(([key, meaning]) => [["dt", key.slice("words.".length)], ["dd", meaning]])
    .map(([tag, text]) => Object.assign(document.createElement(tag), { textContent: text })));
}

// ---- controls

function changed(values) {
  Object.assign(state, values);
  shown = false;
  vote = null;
  draw();
}

// The nearest state with other pictures, whose grid may be smaller.
function changeSet(set) {
  const before = grid(), nearestPlace = (list, value) => list.reduce((best, own, i) => (Math.abs(own - value) < Math.abs(list[best] - value) ? i : best), 0);
  const { rate, batch, noise, frame } = state;
  state.set = set;
  changed({ rate: nearestPlace(grid().rates, before.rates[rate]), batch: nearestPlace(grid().batches, before.batches[batch]),
    noise: nearestPlace(grid().noises, before.noises[noise]), frame: nearestPlace(grid().frames, before.frames[frame]) });
}

function stepTo(frame) {
  state.frame = Math.min(Math.max(frame, 0), grid().frames.length - 1);
  draw();
}

function play() {
  if (timer) { clearInterval(timer); timer = null; draw(); return; }
  if (state.frame >= grid().frames.length - 1) state.frame = 0;
  state.stage = "";
  timer = setInterval(() => {
    if (state.frame >= grid().frames.length - 1) { play(); return; }
    stepTo(state.frame + 1);
  }, 450);
  draw();
}

function toView(view) {
  if (timer) play();
  state.view = view;
  draw();
}

function listenToKeys() {
  addEventListener("keydown", (event) => {
    const { type, tagName } = event.target;
    if (document.querySelector("dialog[open]") || event.ctrlKey || event.metaKey || event.altKey) return;
    const isArrow = event.key === "ArrowLeft" || event.key === "ArrowRight", by = event.key === "ArrowRight" ? 1 : -1;
    if (isArrow && type !== "range" && type !== "radio" && tagName !== "SELECT") {
      if (state.view === "story") toStep(state.step + by); else stepTo(state.frame + by);
      event.preventDefault();
    }
    const isFree = !["BUTTON", "SUMMARY", "SELECT"].includes(tagName) && type !== "radio" && type !== "checkbox";
    if (event.key === " " && isFree && state.view === "sliders") { play(); event.preventDefault(); }
  });
}

function listen() {
  for (const id of ["rate", "batch", "noise"]) $(id).addEventListener("input", () => changed({ [id]: Number($(id).value) }));
  $("frame").addEventListener("input", () => stepTo(Number($("frame").value)));
  for (const name of ["protection", "attacker"])
    document.querySelectorAll(`[name="${name}"]`).forEach((radio) => radio.addEventListener("change", () => changed({ [name]: radio.value })));
  document.querySelectorAll("[name=set]").forEach((radio) => radio.addEventListener("change", () => changeSet(radio.value)));
  document.querySelectorAll("[data-view]").forEach((b) => b.addEventListener("click", () => toView(b.dataset.view)));
  $("play").addEventListener("click", play);
  $("back").addEventListener("click", () => stepTo(state.frame - 1));
  $("forward").addEventListener("click", () => stepTo(state.frame + 1));
  $("compare").addEventListener("change", () => { state.compare = $("compare").checked; draw(); });
  $("predict-first").addEventListener("change", () => changed({ predict: $("predict-first").checked }));
  $("reveal").addEventListener("click", () => { shown = true; draw(); });
  document.querySelectorAll("[data-vote]").forEach((b) => b.addEventListener("click", () => { if (!shown) { vote = b.dataset.vote; draw(); } }));
  document.querySelectorAll("[data-stage]").forEach((b) => b.addEventListener("click", () => {
    state.stage = state.stage === b.dataset.stage ? "" : b.dataset.stage; draw();
  }));
  $("controls").addEventListener("submit", (event) => event.preventDefault());
  addEventListener("hashchange", () => { read(); beginStep(); translate(); shown = false; vote = null; draw(); });
  listenToKeys();
}

async function start() {
  const load = async (code) => {
    const image = new Image();
    image.src = `data:image/${code.startsWith("UklGR") ? "webp" : "png"};base64,${code}`;
    await image.decode();
    return image;
  };
  for (const [name, own] of Object.entries(lesson.sets)) originals[name] = await load(own.originals);
  strips.push(...await Promise.all(lesson.strips.map(load)));
  listenToWords(draw);
  read();
  translate();
  listen();
  listenToStory();
  listenToQuiz();
  draw();
  document.body.dataset.ready = "yes";
}
start();
