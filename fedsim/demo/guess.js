// Guess the digit of a drawing, by a small classifier that learned from handwritten digits.
const classifier = JSON.parse($("classifier").textContent);
const BOX = 20;
let isOwnLabel = false;

// As the digits it learned from: 20 pixels high or wide at most, with the centre of mass in the middle.
function centred(greys) {
  const lit = greys.flatMap((grey, i) => (grey > 0 ? [i] : []));
  if (!lit.length) return null;
  const rows = lit.map((i) => Math.floor(i / SIDE)), columns = lit.map((i) => i % SIDE);
  const [top, bottom, left, right] = [Math.min(...rows), Math.max(...rows), Math.min(...columns), Math.max(...columns)];
  const scale = BOX / Math.max(bottom - top + 1, right - left + 1), mass = greys.reduce((a, b) => a + b, 0);
  const middle = (own) => lit.reduce((sum, i) => sum + greys[i] * (own(i) + 0.5), 0) / mass;
  const [y, x] = [middle((i) => Math.floor(i / SIDE)), middle((i) => i % SIDE)];
  const [from, to] = [stripOf([greys], SIDE), document.createElement("canvas")];
  to.width = to.height = SIDE;
  const ink = to.getContext("2d", { willReadFrequently: true });
  ink.fillStyle = "#000";
  ink.fillRect(0, 0, SIDE, SIDE);
  ink.drawImage(from, SIDE / 2 - x * scale, SIDE / 2 - y * scale, SIDE * scale, SIDE * scale);
  const { data } = ink.getImageData(0, 0, SIDE, SIDE);
  return Array.from({ length: SIDE * SIDE }, (_, i) => data[4 * i] / 255);
}

function scoresOf(pixels) {
  return classifier.layers.reduce((values, { weights, biases, scale }, at) => biases.map((bias, unit) => {
    const row = weights[unit], sum = values.reduce((total, value, i) => total + value * row[i], 0) * scale + bias;
    return at < classifier.layers.length - 1 ? Math.max(0, sum) : sum;
  }), pixels);
}

function guessDigit(greys) {
  const pixels = centred(greys);
  if (pixels === null) return null;
  const scores = scoresOf(pixels);
  return scores.indexOf(Math.max(...scores));
}

// A label that the viewer chose stays until the drawing is cleared.
function followDrawing() {
  if (isOwnLabel) return;
  const digit = guessDigit(greysOf($("drawing")));
  if (digit !== null) $("label").value = digit;
}
