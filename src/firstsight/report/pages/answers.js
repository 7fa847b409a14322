"use strict";
(() => {
  const form = document.getElementById("filters");
  const none = document.getElementById("none");
  const cards = [...document.querySelectorAll("main article")];
  const words = new Map(cards.map((card) => [card, card.textContent.toLowerCase()]));

  const replies = (card) => [...card.querySelectorAll("[data-who]")];

  // What a question is judged by: the chosen condition; without a choice the picture's, else the only one there is.
  function pair(card, sight) {
    const all = replies(card);
    for (const blind of sight ? [sight] : ["0", "1"]) {
      const found = ["0", "1"].map((who) => all.find((one) => one.dataset.who === who && one.dataset.blind === blind));
      if (found[0] && found[1]) return found;
    }
    const some = (who) => all.find((one) => one.dataset.who === who && (!sight || one.dataset.blind === sight));
    return [some("0"), some("1")];
  }

  const said = (reply) => reply.querySelector(".said").textContent;

  function fits(card, wanted) {
    const [result, who] = wanted.result.split("-");
    const two = pair(card, wanted.sight);
    const less = two[0] && two[1] ? Number(two[0].dataset.score) - Number(two[1].dataset.score) : NaN;
    const one = two[Number(who)];
    switch (result) {
      case "differs": return Math.abs(less) > 5e-10;
      case "better": return who === "0" ? less > 5e-10 : less < -5e-10;
      case "words": return Math.abs(less) <= 5e-10 && said(two[0]) !== said(two[1]);
      case "right": return one?.dataset.right === "1";
      case "wrong": return one?.dataset.right === "0";
      case "unread": return replies(card).some((any) => any.dataset.read === "0" && (!wanted.sight || any.dataset.blind === wanted.sight));
    }
    return !wanted.sight || Boolean(two[0] || two[1]);
  }

  function apply() {
    const wanted = { task: "", sight: "", result: "", held: "", text: "", ...Object.fromEntries(new FormData(form)) };
    const text = wanted.text.trim().toLowerCase();
    let count = 0;
    for (const card of cards) {
      const shown = (!wanted.task || card.dataset.task === wanted.task)
        && (!wanted.held || card.dataset.held === wanted.held)
        && (!text || words.get(card).includes(text))
        && fits(card, wanted);
      card.hidden = !shown;
      count += shown;
    }
    for (const group of document.querySelectorAll(".group")) group.hidden = !group.querySelector("article:not([hidden])");
    document.body.dataset.sight = wanted.sight;
    form.elements.count.value = `${count} of ${cards.length}`;
    none.hidden = count > 0;
  }

  // An address leads to its question, also to one that a filter hides.
  function reveal() {
    const name = location.hash.slice(1);
    const card = document.getElementById(name);
    if (!card || card.tagName !== "ARTICLE") return;
    if (card.hidden) form.reset();
    apply();
    card.scrollIntoView();
    card.focus({ preventScroll: true });
  }

  form.hidden = false;
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("input", apply);
  form.addEventListener("reset", () => setTimeout(apply));
  addEventListener("hashchange", reveal);
  apply();
  reveal();
})();
