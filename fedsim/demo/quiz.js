// The quiz: results of attacks on pictures that the page shows nowhere else. Questions come in a random order, each once.
const quiz = { n: 0, right: 0, at: -1, order: [], isAnswered: false };

function shuffled(count) {
  const order = Array.from({ length: count }, (_, i) => i);
  for (let i = count - 1; i > 0; i--) {
    const j = Math.floor(Math.random() * (i + 1));
    [order[i], order[j]] = [order[j], order[i]];
  }
  return order;
}

const question = () => lesson.quiz[quiz.order[quiz.at]];

function ask() {
  quiz.at++;
  if (quiz.at % lesson.quiz.length === 0) { quiz.order = shuffled(lesson.quiz.length); quiz.at = 0; }
  quiz.isAnswered = false;
  $("quiz-answers").replaceChildren(...question().answers.map((answer) => {
    const button = Object.assign(document.createElement("button"), { type: "button", textContent: answer });
    button.addEventListener("click", () => answered(answer));
    return button;
  }));
  drawQuiz();
}

function answered(answer) {
  quiz.isAnswered = true;
  quiz.n++;
  quiz.said = answer;
  if (answer === question().label) quiz.right++;
  drawQuiz();
}

function drawQuiz() {
  if (quiz.at < 0) return;
  const { pictures, guess, truth, label, attack, setting, psnr } = question(), { side } = lesson.sets[pictures];
  tell("quiz-title", `quiz.${pictures}.title`);
  tell("quiz-whose", `quiz.${pictures}.original`);
  drawRow($("quiz-picture"), strips[guess], 0, 1, side);
  describe($("quiz-picture"), t(`quiz.${pictures}.picture`));
  $("quiz-original").hidden = !quiz.isAnswered;
  document.querySelectorAll("#quiz-answers button").forEach((b) => { b.disabled = quiz.isAnswered; });
  if (!quiz.isAnswered) {
    blank($("quiz-truth"));
    tell("quiz-text", "quiz.text", { right: quiz.right, n: quiz.n });
    $("quiz-verdict").textContent = "";
    return;
  }
  drawRow($("quiz-truth"), strips[truth], 0, 1, side);
  describe($("quiz-truth"), t(`quiz.${pictures}.truth`, { label }));
  const fact = t("quiz.fact", { attack, rate: setting.rate.toLocaleString(language), batch: setting.batch, defense: defenseName(setting), psnr: fixed(psnr) });
  tell("quiz-verdict", quiz.said === label ? "quiz.right" : "quiz.wrong", { label, fact });
  tell("quiz-text", "quiz.score", { right: quiz.right, n: quiz.n });
}

function listenToQuiz() {
  const open = () => { hideWord(); ask(); $("quiz-box").showModal(); };
  for (const button of document.querySelectorAll("[data-quiz]")) { button.hidden = lesson.quiz.length === 0; button.addEventListener("click", open); }
  $("quiz-next").addEventListener("click", ask);
  $("quiz-close").addEventListener("click", () => $("quiz-box").close());
}
