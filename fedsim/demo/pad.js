// A square to draw a digit on, and its 28 x 28 pixels.
const SIDE = 28, PEN = 21;

function wipe(canvas) {
  const ink = canvas.getContext("2d", { willReadFrequently: true });
  ink.fillStyle = "#000";
  ink.fillRect(0, 0, canvas.width, canvas.height);
}

// The drawing as SIDE x SIDE greys: the mean over blocks.
function greysOf(canvas) {
  const ink = canvas.getContext("2d", { willReadFrequently: true });
  const { data, width } = ink.getImageData(0, 0, canvas.width, canvas.height), block = width / SIDE, greys = [];
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

// Let a pen draw. `begun` is called before a stroke, `moved` during it, `ended` after it.
function listenToPen(canvas, { begun, moved, ended }) {
  const ink = canvas.getContext("2d", { willReadFrequently: true });
  let last = null;
  const at = (event) => {
    const box = canvas.getBoundingClientRect();
    return [((event.clientX - box.left) / box.width) * canvas.width, ((event.clientY - box.top) / box.height) * canvas.height];
  };
  const stroke = (from, to) => {
    ink.strokeStyle = "#fff";
    ink.lineWidth = PEN;
    ink.lineCap = ink.lineJoin = "round";
    ink.beginPath();
    ink.moveTo(...from);
    ink.lineTo(...to);
    ink.stroke();
    moved();
  };
  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    begun();
    last = at(event);
    stroke(last, last);
  });
  canvas.addEventListener("pointermove", (event) => {
    if (last === null) return;
    const next = at(event);
    stroke(last, next);
    last = next;
  });
  for (const end of ["pointerup", "pointercancel"])
    canvas.addEventListener(end, () => { if (last !== null) { last = null; ended(); } });
}
