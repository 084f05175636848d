"use strict";
// What the recorded and the live page share: drawing. Colours are those of Okabe and Ito.
const KEPT = "#0072b2", DROPPED = "#e4e8ec", WRONG = "#d55e00", BELOW = [0, 114, 178], ABOVE = [213, 94, 0];
const $ = (id) => document.getElementById(id);

function describe(canvas, text) {
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", plain(text));
}

function blank(canvas) {
  const pen = canvas.getContext("2d");
  pen.fillStyle = "#8a929b";
  pen.fillRect(0, 0, canvas.width, canvas.height);
}

// An empty canvas for n images, as high as their rows.
function cleared(canvas, n) {
  const columns = Math.ceil(Math.sqrt(n));
  canvas.height = Math.ceil(n / columns) * canvas.width / columns;
  const pen = canvas.getContext("2d");
  pen.imageSmoothingEnabled = false;
  return pen;
}

// One row of a strip: the images of a batch.
function drawRow(canvas, strip, row, n, side, mode = "source-over") {
  const pen = mode === "source-over" ? cleared(canvas, n) : canvas.getContext("2d");
  const columns = Math.ceil(Math.sqrt(n)), size = canvas.width / columns;
  pen.globalCompositeOperation = mode;
  for (let i = 0; i < n; i++)
    pen.drawImage(strip, i * side, row * side, side, side, (i % columns) * size, Math.floor(i / columns) * size, size, size);
  pen.globalCompositeOperation = "source-over";
}

// Images side by side, as a strip. Each is a list of greys from 0 to 255, or of [red, green, blue].
function stripOf(pictures, side) {
  const strip = document.createElement("canvas");
  strip.width = side * pictures.length;
  strip.height = side;
  pictures.forEach((picture, at) => {
    const image = new ImageData(side, side);
    picture.forEach((colour, i) => image.data.set([...(Array.isArray(colour) ? colour : [colour, colour, colour]), 255], 4 * i));
    strip.getContext("2d").putImageData(image, side * at, 0);
  });
  return strip;
}

const drawPictures = (canvas, pictures, side) => drawRow(canvas, stripOf(pictures, side), 0, pictures.length, side);

// Numbers of both signs as colours, white at zero.
function signedColours(values) {
  const most = values.reduce((largest, value) => Math.max(largest, Math.abs(value)), 1e-30);
  return Array.from(values, (value) => {
    const share = Math.abs(value) / most, colour = value < 0 ? BELOW : ABOVE;
    return colour.map((part) => Math.round(255 + share * (part - 255)));
  });
}

function drawDifference(canvas, original, strip, row, n, side) {
  drawRow(canvas, original, 0, n, side);
  drawRow(canvas, strip, row, n, side, "difference");
}

function unpacked(hex) {
  return [...hex].flatMap((digit) => [8, 4, 2, 1].map((bit) => (parseInt(digit, 16) & bit ? 1 : 0)));
}

// A mask, layer beside layer, 16 units a line; entries that differ from the reference get a cross.
function drawMask(canvas, mask, units, reference = null) {
  const pen = canvas.getContext("2d");
  pen.clearRect(0, 0, canvas.width, canvas.height);
  const gap = 8, size = Math.floor((canvas.width - gap * (units.length - 1)) / (16 * units.length));
  let unit = 0;
  units.forEach((count, layer) => {
    for (let i = 0; i < count; i++, unit++) {
      const x = layer * (16 * size + gap) + (i % 16) * size, y = Math.floor(i / 16) * size;
      const isWrong = reference && reference[unit] !== mask[unit];
      pen.fillStyle = isWrong ? WRONG : mask[unit] ? KEPT : DROPPED;
      pen.fillRect(x, y, size - 1, size - 1);
      if (isWrong) {
        pen.strokeStyle = "#000";
        pen.beginPath();
        pen.moveTo(x, y); pen.lineTo(x + size - 1, y + size - 1);
        pen.stroke();
      }
    }
  });
}

// A curve with a cursor. `log` draws the logarithm of y.
function drawCurve(svg, xs, ys, { log = false, cursor = null, last = null, kind = "objective" }) {
  const width = 240, height = 150, left = 44, bottom = 22, top = 8, right = 8;
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  svg.replaceChildren();
  const points = xs.map((x, i) => [x, ys[i]]).filter(([, y]) => y !== null && (!log || y > 0));
  if (!points.length) return;
  const scale = (y) => (log ? Math.log10(Math.max(y, 1e-30)) : y);
  const values = points.map(([, y]) => scale(y));
  let low = Math.min(...values), high = Math.max(...values);
  if (high - low < 1e-9) { low -= 1; high += 1; }
  const end = last ?? Math.max(2, points[points.length - 1][0]);
  const px = (x) => left + ((x - 1) / Math.max(1, end - 1)) * (width - left - right);
  const py = (y) => top + (1 - (scale(y) - low) / (high - low)) * (height - top - bottom);
  const add = (name, attributes, text) => {
    const node = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    if (text !== undefined) node.textContent = text;
    svg.append(node);
  };
  const label = (v) => (log ? (10 ** v).toExponential(0) : v.toFixed(0));
  for (const [v, y] of [[high, top], [low, height - bottom]]) {
    add("line", { x1: left, x2: width - right, y1: y, y2: y, class: "grid" });
    add("text", { x: left - 4, y: y + 4, "text-anchor": "end" }, label(v));
  }
  add("text", { x: left, y: height - 6 }, "1");
  add("text", { x: width - right, y: height - 6, "text-anchor": "end" }, t("curve.iteration", { n: end }));
  if (points.length === 1) {
    add("circle", { cx: px(points[0][0]), cy: py(points[0][1]), r: 4, class: "point" });
  } else {
    add("polyline", { points: points.map(([x, y]) => `${px(x)},${py(y)}`).join(" "), class: `curve ${kind}` });
  }
  if (cursor !== null) {
    const x = px(Math.min(cursor, end));
    add("line", { x1: x, x2: x, y1: top, y2: height - bottom, class: "cursor" });
  }
}
