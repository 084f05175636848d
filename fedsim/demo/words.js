// What the page says, in the language of the viewer, and what a word of the glossary means, on touch.
const texts = JSON.parse($("messages").textContent);
const MARKED = /\[([^\]]+)\]\(([^)]+)\)/;
let language = texts.language;

const template = (key) => texts.all[language][key] ?? key;

// A message with its placeholders filled.
const t = (key, values = {}) => template(key).replace(/\{(\w+)\}/g, (whole, name) => values[name] ?? whole);
const plain = (text) => text.replace(new RegExp(MARKED, "g"), "$1");
const fixed = (value, digits = 1) =>
  value.toLocaleString(language, { minimumFractionDigits: digits, maximumFractionDigits: digits, useGrouping: false });
const sign = () => (1.5).toLocaleString(language)[1];
const significant = (value, digits) => value.toPrecision(digits).replace(".", sign());
const images = (n) => (n === 1 ? t("images.one") : t("images.other", { n }));

// Why an attack ended, in the page's language: what it said is found among the English messages; else its own words.
function because(why) {
  for (const [key, english] of Object.entries(texts.all.en)) {
    if (!key.startsWith("why.")) continue;
    const names = [...english.matchAll(/\{(\w+)\}/g)].map(([, name]) => name);
    const found = new RegExp(`^${english.replace(/\{\w+\}/g, "(\\d+)")}$`).exec(why);
    if (found) return t(key, Object.fromEntries(names.map((name, at) => [name, found[at + 1]])));
  }
  return why;
}

// Fill an element; a marked word becomes a button that explains it.
function put(element, text) {
  element.replaceChildren();
  let rest = text;
  for (let found = MARKED.exec(rest); found; found = MARKED.exec(rest)) {
    element.append(rest.slice(0, found.index), wordButton(found[1], found[2]));
    rest = rest.slice(found.index + found[0].length);
  }
  element.append(rest);
}

const tell = (id, key, values) => put($(id), t(key, values));

function wordButton(text, word) {
  if (!(`words.${word}` in texts.all[language])) return text;
  const button = document.createElement("button");
  button.type = "button";
  button.className = "word";
  button.dataset.word = word;
  button.textContent = text;
  button.setAttribute("aria-expanded", "false");
  return button;
}

function translate() {
  hideWord();
  document.documentElement.lang = language;
  document.title = plain(t(document.documentElement.dataset.title));
  for (const element of document.querySelectorAll("[data-t]")) put(element, t(element.dataset.t));
  for (const element of document.querySelectorAll("[data-label]")) element.setAttribute("aria-label", plain(t(element.dataset.label)));
  $("language").value = language;
}

// ---- the box with the meaning

function showWord(button) {
  const box = $("word-box"), place = button.getBoundingClientRect(), holder = button.closest("dialog") ?? document.body;
  hideWord();
  holder.append(box);
  box.textContent = t(`words.${button.dataset.word}`);
  box.hidden = false;
  const around = holder === document.body ? { left: -scrollX, top: -scrollY, width: document.documentElement.clientWidth }
    : holder.getBoundingClientRect();
  const room = around.width - box.offsetWidth - 12;
  box.style.left = `${Math.max(8, Math.min(place.left - around.left, room))}px`;
  box.style.top = `${place.bottom - around.top + (holder === document.body ? 0 : holder.scrollTop) + 6}px`;
  button.setAttribute("aria-expanded", "true");
  button.setAttribute("aria-describedby", "word-box");
}

function hideWord() {
  $("word-box").hidden = true;
  for (const button of document.querySelectorAll(".word[aria-expanded=true]")) {
    button.setAttribute("aria-expanded", "false");
    button.removeAttribute("aria-describedby");
  }
}

// Choose a language, and call `redraw` for what the page computes.
function listenToWords(redraw) {
  for (const [code, own] of Object.entries(texts.all)) $("language").add(new Option(own.language, code));
  $("language").addEventListener("change", () => { language = $("language").value; translate(); redraw(); });
  let pinned = null; // a word that was touched stays explained when the mouse leaves it
  document.addEventListener("click", (event) => {
    const button = event.target.closest(".word");
    if (button === null || (button === pinned && button.getAttribute("aria-expanded") === "true")) { hideWord(); pinned = null; return; }
    event.preventDefault();
    showWord(button);
    pinned = button;
  });
  document.addEventListener("pointerover", (event) => {
    const button = event.target.closest(".word");
    if (pinned?.getAttribute("aria-expanded") !== "true") pinned = null;
    if (event.pointerType !== "mouse" || pinned) return;
    if (button) showWord(button); else hideWord();
  });
  document.addEventListener("keydown", (event) => { if (event.key === "Escape") hideWord(); });
}
