"use strict";
// A client in the page itself: 784 pixels, one hidden layer of sigmoid units with dropout, ten classes. Weights and
// gradients are rounded to 32 bits, as a real client sends them. Nothing here touches the page.
const PIXELS = 784, UNITS = 128, DIGITS = 10, LEAST_GRADIENT = 1e-9, SAME_PIXELS = 1e-5;

// Numbers in [0, 1) that depend on the seed alone.
function randomNumbers(seed) {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}

function normalNumbers(seed) {
  const next = randomNumbers(seed);
  return () => Math.sqrt(-2 * Math.log(1 - next())) * Math.cos(2 * Math.PI * next());
}

// Tensors by name, in the order in which torch lists them.
function makeNetwork(seed) {
  const next = randomNumbers(seed);
  const filled = (count, inputs) => Float32Array.from({ length: count }, () => (2 * next() - 1) / Math.sqrt(inputs));
  return { w1: filled(UNITS * PIXELS, PIXELS), b1: filled(UNITS, PIXELS), w2: filled(DIGITS * UNITS, UNITS), b2: filled(DIGITS, UNITS) };
}

// Which units each image keeps: 1 kept, 0 dropped.
function makeMasks(seed, images, rate) {
  const next = randomNumbers(seed);
  return Array.from({ length: images }, () => Uint8Array.from({ length: UNITS }, () => (next() < rate ? 0 : 1)));
}

function softmax(values) {
  const top = Math.max(...values), powers = values.map((value) => Math.exp(value - top));
  const sum = powers.reduce((a, b) => a + b, 0);
  return powers.map((power) => power / sum);
}

// The gradient of the mean cross-entropy of a batch. Images are pixels in [0, 1].
function gradientOf(network, batch, labels, masks, rate) {
  const sums = Object.fromEntries(Object.entries(network).map(([name, values]) => [name, new Float64Array(values.length)]));
  batch.forEach((pixels, image) => {
    const hidden = new Float64Array(UNITS), kept = Float64Array.from(masks[image], (bit) => bit / (1 - rate));
    for (let unit = 0; unit < UNITS; unit++) {
      let sum = network.b1[unit];
      for (let i = 0; i < PIXELS; i++) sum += network.w1[unit * PIXELS + i] * pixels[i];
      hidden[unit] = 1 / (1 + Math.exp(-sum));
    }
    const scores = Array.from(network.b2, (bias, digit) => {
      for (let unit = 0; unit < UNITS; unit++) bias += network.w2[digit * UNITS + unit] * hidden[unit] * kept[unit];
      return bias;
    });
    const errors = softmax(scores).map((share, digit) => (share - (digit === labels[image] ? 1 : 0)) / batch.length);
    const back = new Float64Array(UNITS);
    errors.forEach((error, digit) => {
      sums.b2[digit] += error;
      for (let unit = 0; unit < UNITS; unit++) {
        sums.w2[digit * UNITS + unit] += error * hidden[unit] * kept[unit];
        back[unit] += error * network.w2[digit * UNITS + unit];
      }
    });
    for (let unit = 0; unit < UNITS; unit++) {
      const slope = back[unit] * kept[unit] * hidden[unit] * (1 - hidden[unit]);
      if (slope === 0) continue;
      sums.b1[unit] += slope;
      for (let i = 0; i < PIXELS; i++) sums.w1[unit * PIXELS + i] += slope * pixels[i];
    }
  });
  return Object.fromEntries(Object.entries(sums).map(([name, values]) => [name, Float32Array.from(values)]));
}

const normOf = (gradient) => Math.sqrt(Object.values(gradient).reduce((sum, values) => values.reduce((s, v) => s + v * v, sum), 0));

function clipped(gradient, norm) {
  const factor = Math.min(1, norm / normOf(gradient));
  return Object.fromEntries(Object.entries(gradient).map(([name, values]) => [name, values.map((value) => value * factor)]));
}

// Gaussian noise whose deviation is a multiple of each tensor's root mean square.
function noisy(gradient, scale, seed) {
  if (scale === 0) return gradient;
  const next = normalNumbers(seed);
  return Object.fromEntries(Object.entries(gradient).map(([name, values]) => {
    const rms = Math.sqrt(values.reduce((sum, value) => sum + value * value, 0) / values.length);
    return [name, values.map((value) => value + scale * rms * next())];
  }));
}

// ---- the attacker, who has the gradient alone

const rowOf = (gradient, unit) => gradient.w1.subarray(unit * PIXELS, (unit + 1) * PIXELS);

// One unit: its weights' gradient divided by its bias's. A unit that was dropped says nothing.
function solveUnit(gradient, unit) {
  const bias = gradient.b1[unit];
  return Math.abs(bias) < LEAST_GRADIENT ? null : Array.from(rowOf(gradient, unit), (value) => value / bias);
}

// All units together: x = dW^T db / |db|^2. Equal to one unit without noise, and better with it.
function solveAll(gradient) {
  const sum = new Float64Array(PIXELS);
  let power = 0;
  for (let unit = 0; unit < UNITS; unit++) {
    const bias = gradient.b1[unit], row = rowOf(gradient, unit);
    power += bias * bias;
    for (let i = 0; i < PIXELS; i++) sum[i] += bias * row[i];
  }
  return Array.from(sum, (value) => (power ? value / power : 0));
}

const largestGap = (a, b) => a.reduce((most, value, i) => Math.max(most, Math.abs(value - b[i])), 0);

// Units that agree on one image saw it alone: a mixture differs from unit to unit.
function separated(gradient) {
  const groups = [];
  for (let unit = 0; unit < UNITS; unit++) {
    const guess = solveUnit(gradient, unit);
    if (guess === null) continue;
    const own = groups.find((group) => largestGap(group.pixels, guess) < SAME_PIXELS);
    if (own) own.units.push(unit);
    else groups.push({ pixels: guess, units: [unit] });
  }
  return groups.filter((group) => group.units.length > 1);
}

function psnrOf(guess, pixels) {
  const mean = guess.reduce((sum, value, i) => sum + (Math.min(1, Math.max(0, value)) - pixels[i]) ** 2, 0) / pixels.length;
  return Math.min(160, -10 * Math.log10(Math.max(mean, 1e-16)));
}
