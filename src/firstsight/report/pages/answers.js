"use strict";
(() => {
  const form = document.getElementById("filters");
  const noMatch = document.getElementById("no-match");
  const cards = [...document.querySelectorAll("main article")];
  const texts = new Map(cards.map((card) => [card, card.textContent.toLowerCase()]));
  const TOLERANCE = 5e-10;

  const answersOf = (card) => [...card.querySelectorAll("[data-checkpoint]")];
  const answerText = (answer) => answer.querySelector(".answer-text").textContent;

  // The answers of both checkpoints: in the selected condition; without a selection with the image, else without it.
  function answerPair(card, blind) {
    const answers = answersOf(card);
    const find = (checkpoint, condition) =>
      answers.find(({ dataset }) => dataset.checkpoint === checkpoint && (!condition || dataset.blind === condition));
    for (const condition of blind ? [blind] : ["0", "1"]) {
      const pair = ["0", "1"].map((checkpoint) => find(checkpoint, condition));
      if (pair[0] && pair[1]) return pair;
    }
    return [find("0", blind), find("1", blind)];
  }

  function hasResult(card, filter) {
    const [result, checkpoint] = filter.result.split("-");
    const pair = answerPair(card, filter.blind);
    const difference = pair[0] && pair[1] ? Number(pair[0].dataset.score) - Number(pair[1].dataset.score) : NaN;
    const answer = pair[Number(checkpoint)];
    switch (result) {
      case "differs": return Math.abs(difference) > TOLERANCE;
      case "better": return checkpoint === "0" ? difference > TOLERANCE : difference < -TOLERANCE;
      case "wording": return Math.abs(difference) <= TOLERANCE && answerText(pair[0]) !== answerText(pair[1]);
      case "correct": return answer?.dataset.correct === "1";
      case "wrong": return answer?.dataset.correct === "0";
      case "unreadable": return answersOf(card).some(({ dataset }) =>
        dataset.readable === "0" && (!filter.blind || dataset.blind === filter.blind));
    }
    return !filter.blind || Boolean(pair[0] || pair[1]);
  }

  function applyFilter() {
    const filter = { task: "", blind: "", result: "", heldout: "", text: "", ...Object.fromEntries(new FormData(form)) };
    const text = filter.text.trim().toLowerCase();
    let count = 0;
    for (const card of cards) {
      const matches = (!filter.task || card.dataset.task === filter.task)
        && (!filter.heldout || card.dataset.heldout === filter.heldout)
        && (!text || texts.get(card).includes(text))
        && hasResult(card, filter);
      card.hidden = !matches;
      count += matches;
    }
    for (const group of document.querySelectorAll(".group")) group.hidden = !group.querySelector("article:not([hidden])");
    document.body.dataset.blind = filter.blind;
    form.elements.count.value = `${count} of ${cards.length}`;
    noMatch.hidden = count > 0;
  }

  // A URL with #task/id leads to its question, also to one that a filter hides.
  function showLinkedCard() {
    const card = document.getElementById(location.hash.slice(1));
    if (!card || card.tagName !== "ARTICLE") return;
    if (card.hidden) form.reset();
    applyFilter();
    card.scrollIntoView();
    card.focus({ preventScroll: true });
  }

  form.hidden = false;
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("input", applyFilter);
  form.addEventListener("reset", () => setTimeout(applyFilter));
  addEventListener("hashchange", showLinkedCard);
  applyFilter();
  showLinkedCard();
})();
