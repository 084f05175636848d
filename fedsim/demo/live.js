// The live page: draw, send, and show what the server streams.
const PAUSE = 350;
const drawing = $("drawing");
let isEmpty = true, waiting = null, running = null, course = null;
let said = ["idle", "live.idle", {}];

// ---- drawing

function clear() {
  wipe(drawing);
  isEmpty = true;
  isOwnLabel = false;
  if (running) running.abort();
  for (const id of ["held", "exact", "search"]) blank($(id));
  for (const id of ["objective", "psnr"]) $(id).replaceChildren();
  say("idle", "live.idle");
}

async function place(file) {
  let image;
  try {
    image = await createImageBitmap(file);
  } catch {
    say("failed", "live.unreadable");
    return;
  }
  wipe(drawing);
  const ink = drawing.getContext("2d", { willReadFrequently: true });
  const scale = Math.min(drawing.width / image.width, drawing.height / image.height);
  const [w, h] = [image.width * scale, image.height * scale];
  ink.drawImage(image, (drawing.width - w) / 2, (drawing.height - h) / 2, w, h);
  isEmpty = false;
  followDrawing();
  attack();
}

// ---- the attack

const chosen = (name) => document.querySelector(`[name="${name}"]:checked`).value;
const noise = () => Number((10 ** Number($("noise").value)).toPrecision(2));
const decimal = (value) => value.toLocaleString(language);

function say(phase, key, values = {}) {
  said = [phase, key, values];
  document.body.dataset.phase = phase;
  put($("status"), t(key, values));
}

function caption(id, text) {
  delete $(`${id}-text`).dataset.t; // a result stays when the language changes
  put($(`${id}-text`), text);
  describe($(id), text);
}

function labels() {
  $("rate-value").textContent = decimal(Number($("rate").value));
  $("noise").disabled = chosen("protection") !== "noise";
  $("noise-value").textContent = $("noise").disabled ? t("controls.off") : t("controls.rms", { scale: decimal(noise()) });
}

function soon() {
  labels();
  clearTimeout(waiting);
  if (!isEmpty) waiting = setTimeout(attack, PAUSE);
}

async function attack() {
  clearTimeout(waiting);
  if (isEmpty) return;
  if (running) running.abort();
  const mine = (running = new AbortController());
  const greys = greysOf(drawing);
  drawPictures($("held"), [greys], SIDE);
  caption("held", t("live.asheld"));
  course = { xs: [], objective: [], psnr: [] };
  for (const id of ["exact", "search"]) blank($(id));
  for (const id of ["objective", "psnr"]) $(id).replaceChildren();
  caption("exact", t("live.solving"));
  caption("search", t("live.notbegun"));
  say("sent", "live.sent");
  const order = { pixels: greys, label: Number($("label").value), attacker: chosen("attacker"),
    setting: { rate: Number($("rate").value), protection: chosen("protection"), noise: noise() } };
  try {
    const answer = await fetch("attack", { method: "POST", body: JSON.stringify(order), signal: mine.signal,
      headers: { "Content-Type": "application/json" } });
    if (!answer.ok) { say("failed", "live.refused", { why: await answer.text() }); return; }
    for await (const [event, about] of events(answer.body)) heard[event]?.(about);
    if (!mine.signal.aborted && document.body.dataset.phase !== "failed") say("done", "live.done");
  } catch (error) {
    if (!mine.signal.aborted) say("failed", "live.gone");
  }
}

async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const parts = (rest + value).split("\n\n");
    rest = parts.pop();
    for (const part of parts) {
      const [, event, about] = part.match(/^event: (\w+)\ndata: (.*)$/s);
      yield [event, JSON.parse(about)];
    }
  }
}

const heard = {
  waiting: ({ place }) => say("waiting", "live.waiting", { place }),
  started: () => say("running", "live.running"),
  refused: ({ why }) => say("failed", "live.refused", { why }),
  failed: () => say("failed", "live.broken"),
  failure: ({ attacker, why }) => caption(attacker === "exact" ? "exact" : "search", t("pictures.failure", { why: because(why) })),
  step: (about) => {
    drawPictures($("search"), [about.pixels], SIDE);
    caption("search", t("live.step", { ...about, psnr: fixed(about.psnr) }));
    note(about.iteration, about.objective, about.psnr, about.iterations);
  },
  result: (about) => {
    const id = about.attacker === "exact" ? "exact" : "search";
    drawPictures($(id), [about.pixels], SIDE);
    const time = about.seconds < 1 ? t("live.milliseconds", { n: fixed(1000 * about.seconds, 0) }) : t("live.seconds", { n: fixed(about.seconds) });
    const result = t(id === "exact" ? "live.solved" : "live.found", { name: about.name, psnr: fixed(about.psnr), time, iterations: about.iterations });
    caption(id, about.agreement === null ? result : `${result} ${t("live.masks", { share: fixed(100 * about.agreement) })}`);
    if (id === "search") note(about.iterations, about.objective, about.psnr, about.iterations);
  },
};

function note(iteration, objective, psnr, end) {
  course.xs.push(iteration); course.objective.push(objective); course.psnr.push(psnr);
  course.end = end;
  drawCourse();
}

function drawCourse() {
  if (!course?.xs.length) return;
  const { xs, objective, psnr, end } = course, cursor = xs[xs.length - 1];
  drawCurve($("objective"), xs, objective, { log: true, last: end, cursor });
  drawCurve($("psnr"), xs, psnr, { last: end, cursor, kind: "psnr" });
  const known = objective.filter((value) => value !== null);
  if (known.length) tell("objective-text", "live.course", { first: significant(known[0], 2), now: significant(known[known.length - 1], 2) });
  else tell("objective-text", "curve.nofigure");
  tell("psnr-text", "live.closeness", { first: fixed(psnr[0]), now: fixed(psnr[psnr.length - 1]) });
}

// ---- controls

function listenToFiles() {
  drawing.addEventListener("dragover", (event) => { event.preventDefault(); drawing.classList.add("over"); });
  drawing.addEventListener("dragleave", () => drawing.classList.remove("over"));
  drawing.addEventListener("drop", (event) => {
    event.preventDefault();
    drawing.classList.remove("over");
    if (event.dataTransfer.files.length) place(event.dataTransfer.files[0]);
  });
  $("open").addEventListener("click", () => $("file").click());
  $("file").addEventListener("change", () => { if ($("file").files.length) place($("file").files[0]); $("file").value = ""; });
}

function listen() {
  for (let digit = 0; digit < 10; digit++) $("label").add(new Option(digit, digit));
  listenToPen(drawing, { begun: () => clearTimeout(waiting), moved: () => { isEmpty = false; }, ended: () => { followDrawing(); soon(); } });
  listenToFiles();
  $("clear").addEventListener("click", clear);
  $("again").addEventListener("click", attack);
  $("controls").addEventListener("submit", (event) => event.preventDefault());
  $("label").addEventListener("input", () => { isOwnLabel = true; soon(); });
  for (const id of ["rate", "noise"]) $(id).addEventListener("input", soon);
  document.querySelectorAll("[type=radio]").forEach((radio) => radio.addEventListener("change", soon));
}

listenToWords(() => { labels(); say(...said); drawCourse(); });
translate();
listen();
labels();
clear();
