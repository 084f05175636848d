"use strict";
const SIDE = 28, PAUSE = 350, PEN = 21;
const drawing = $("drawing"), ink = drawing.getContext("2d", { willReadFrequently: true });
let isEmpty = true, last = null, waiting = null, running = null, course = null;

// ---- drawing

function clear() {
  ink.fillStyle = "#000";
  ink.fillRect(0, 0, drawing.width, drawing.height);
  isEmpty = true;
  if (running) running.abort();
  for (const id of ["held", "exact", "search"]) blank($(id));
  for (const id of ["objective", "psnr"]) $(id).replaceChildren();
  say("idle", "Draw a digit to begin.");
}

function at(event) {
  const box = drawing.getBoundingClientRect();
  return [((event.clientX - box.left) / box.width) * drawing.width, ((event.clientY - box.top) / box.height) * drawing.height];
}

function stroke(from, to) {
  ink.strokeStyle = "#fff";
  ink.lineWidth = PEN;
  ink.lineCap = ink.lineJoin = "round";
  ink.beginPath();
  ink.moveTo(...from);
  ink.lineTo(...to);
  ink.stroke();
  isEmpty = false;
}

async function place(file) {
  let image;
  try {
    image = await createImageBitmap(file);
  } catch {
    say("failed", "The browser cannot read this file as an image.");
    return;
  }
  const scale = Math.min(drawing.width / image.width, drawing.height / image.height);
  ink.fillStyle = "#000";
  ink.fillRect(0, 0, drawing.width, drawing.height);
  const [w, h] = [image.width * scale, image.height * scale];
  ink.drawImage(image, (drawing.width - w) / 2, (drawing.height - h) / 2, w, h);
  isEmpty = false;
  attack();
}

// The drawing as SIDE x SIDE greys: the mean over blocks.
function pixels() {
  const { data, width } = ink.getImageData(0, 0, drawing.width, drawing.height), block = width / SIDE, greys = [];
  for (let row = 0; row < SIDE; row++)
    for (let column = 0; column < SIDE; column++) {
      let sum = 0;
      for (let y = 0; y < block; y++)
        for (let x = 0; x < block; x++) {
          const i = 4 * ((row * block + y) * width + column * block + x);
          sum += 0.299 * data[i] + 0.587 * data[i + 1] + 0.114 * data[i + 2];
        }
      greys.push(Math.min(255, Math.round(sum / (block * block))));
    }
  return greys;
}

function show(id, greys) {
  const small = document.createElement("canvas");
  small.width = small.height = SIDE;
  const image = new ImageData(SIDE, SIDE);
  greys.forEach((grey, i) => image.data.set([grey, grey, grey, 255], 4 * i));
  small.getContext("2d").putImageData(image, 0, 0);
  drawRow($(id), small, 0, 1, SIDE);
}

// ---- the attack

const chosen = (name) => document.querySelector(`[name="${name}"]:checked`).value;
const noise = () => Number((10 ** Number($("noise").value)).toPrecision(2));

function say(phase, text) {
  document.body.dataset.phase = phase;
  $("status").textContent = text;
}

function tell(id, text) {
  $(`${id}-text`).textContent = text;
  describe($(id), text);
}

function labels() {
  $("rate-value").textContent = $("rate").value;
  $("noise").disabled = chosen("protection") !== "noise";
  $("noise-value").textContent = $("noise").disabled ? "(off)" : `${noise()} x RMS`;
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
  const greys = pixels();
  show("held", greys);
  describe($("held"), "The drawing as the client holds it.");
  course = { xs: [], objective: [], psnr: [] };
  for (const id of ["exact", "search"]) blank($(id));
  for (const id of ["objective", "psnr"]) $(id).replaceChildren();
  tell("exact", "Solving.");
  tell("search", "Not begun.");
  say("sent", "The client computes its gradient.");
  const order = { pixels: greys, label: Number($("label").value), attacker: chosen("attacker"),
    setting: { rate: Number($("rate").value), protection: chosen("protection"), noise: noise() } };
  try {
    const answer = await fetch("attack", { method: "POST", body: JSON.stringify(order), signal: mine.signal,
      headers: { "Content-Type": "application/json" } });
    if (!answer.ok) { say("failed", await answer.text()); return; }
    for await (const [event, about] of events(answer.body)) heard[event]?.(about);
    if (!mine.signal.aborted && document.body.dataset.phase !== "failed") say("done", "Done. Change anything, or draw again.");
  } catch (error) {
    if (!mine.signal.aborted) say("failed", "The server does not answer. Is fedsim demo --live still running?");
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

const rate = (about) => (about.agreement === null ? "" : ` Masks right: ${(100 * about.agreement).toFixed(1)}%.`);

const heard = {
  waiting: ({ place }) => say("waiting", `Other viewers are being served. Your place in the queue: ${place}.`),
  started: () => say("running", "The attacker works on the gradient."),
  refused: ({ why }) => say("failed", why),
  failure: ({ attacker, why }) => tell(attacker === "exact" ? "exact" : "search", `No guess: ${why}.`),
  step: (about) => {
    show("search", about.pixels);
    tell("search", `Iteration ${about.iteration} of ${about.iterations}: ${about.psnr.toFixed(1)} dB.`);
    note(about.iteration, about.objective, about.psnr, about.iterations);
  },
  result: (about) => {
    const id = about.attacker === "exact" ? "exact" : "search";
    show(id, about.pixels);
    const time = about.seconds < 1 ? `${(1000 * about.seconds).toFixed(0)} ms` : `${about.seconds.toFixed(1)} s`;
    tell(id, `${about.name}: ${about.psnr.toFixed(1)} dB after ${time}${id === "search" ? `, ${about.iterations} iterations` : ""}.${rate(about)}`);
    if (id === "search") note(about.iterations, about.objective, about.psnr, about.iterations);
  },
};

function note(iteration, objective, psnr, end) {
  course.xs.push(iteration); course.objective.push(objective); course.psnr.push(psnr);
  drawCurve($("objective"), course.xs, course.objective, { log: true, last: end, cursor: iteration });
  drawCurve($("psnr"), course.xs, course.psnr, { last: end, cursor: iteration, colour: "#b34700" });
  const known = course.objective.filter((value) => value !== null);
  $("objective-text").textContent = known.length
    ? `From ${known[0].toPrecision(2)} to ${known[known.length - 1].toPrecision(2)}: how badly the guess explains the gradient.` : "No figure.";
  $("psnr-text").textContent = `From ${course.psnr[0].toFixed(1)} to ${psnr.toFixed(1)} dB. The attacker cannot see this curve.`;
}

// ---- controls

function listen() {
  for (let digit = 0; digit < 10; digit++) $("label").add(new Option(digit, digit));
  drawing.addEventListener("pointerdown", (event) => {
    drawing.setPointerCapture(event.pointerId);
    clearTimeout(waiting);
    last = at(event);
    stroke(last, last);
  });
  drawing.addEventListener("pointermove", (event) => {
    if (last === null) return;
    const next = at(event);
    stroke(last, next);
    last = next;
  });
  for (const end of ["pointerup", "pointercancel"]) drawing.addEventListener(end, () => { if (last !== null) { last = null; soon(); } });
  drawing.addEventListener("dragover", (event) => { event.preventDefault(); drawing.classList.add("over"); });
  drawing.addEventListener("dragleave", () => drawing.classList.remove("over"));
  drawing.addEventListener("drop", (event) => {
    event.preventDefault();
    drawing.classList.remove("over");
    if (event.dataTransfer.files.length) place(event.dataTransfer.files[0]);
  });
  $("open").addEventListener("click", () => $("file").click());
  $("file").addEventListener("change", () => { if ($("file").files.length) place($("file").files[0]); $("file").value = ""; });
  $("clear").addEventListener("click", clear);
  $("again").addEventListener("click", attack);
  $("controls").addEventListener("submit", (event) => event.preventDefault());
  for (const id of ["rate", "noise", "label"]) $(id).addEventListener("input", soon);
  document.querySelectorAll("[type=radio]").forEach((radio) => radio.addEventListener("change", soon));
}

listen();
labels();
clear();
