(() => {
  const section = document.getElementById("pairs");
  const data = JSON.parse(document.getElementById("pair-data").textContent);
  if (!section || data.arms.length < 2) return;
  const [first, second] = section.querySelectorAll("select");
  const output = document.getElementById("pair");

  // An element with attributes and children; strings become text, never markup.
  function element(tag, attributes = {}, ...children) {
    const node = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
    node.append(...children);
    return node;
  }

  const points = (share) => {
    const text = (100 * share).toFixed(1).replace("-", "−");
    return share > 0 && text !== "0.0" ? `+${text}` : text.replace(/^−0\.0$/, "0.0");
  };
  const percent = (share) => (share === undefined ? "" : (100 * share).toFixed(1).replace("-", "−"));
  const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;

  function table(head, rows, kind = "n") {
    const cells = (tag, row) => row.map((text, index) => element(tag, { class: index ? kind : "k" }, text ?? ""));
    const body = rows.map((row) => element("tr", {}, ...cells("td", row)));
    const top = element("thead", {}, element("tr", {}, ...cells("th", head)));
    const whole = element("table", { class: "small" }, top, element("tbody", {}, ...body));
    return element("div", { class: "scroll" }, whole);
  }

  function differenceOf(measure, a, b) {
    const sign = a < b ? 1 : -1;
    const stored = data.intervals[`${Math.min(a, b)} ${Math.max(a, b)} ${measure.name}`];
    const [left, right] = [measure.scores[a], measure.scores[b]];
    const seeds = Object.keys(left).filter((seed) => seed in right);
    if (!seeds.length) return { seeds, text: "no seed in common" };
    if (measure.stable ? stored === undefined && data.hasIntervals : !measure.alike) return { seeds, text: "not comparable" };
    const gaps = seeds.map((seed) => left[seed] - right[seed]);
    const ends = stored?.interval && [...stored.interval].map((end) => sign * end).sort((x, y) => x - y);
    return {
      seeds,
      text: points(stored ? sign * stored.mean : mean(gaps)),
      interval: ends ? ends.map(points).join(" to ") : "",
      perSeed: gaps.map(points).join(", "),
      missing: stored?.missing ?? [],
    };
  }

  function scoreRows(a, b) {
    const rows = data.measures
      .filter((measure) => Object.keys(measure.scores[a]).length && Object.keys(measure.scores[b]).length)
      .map((measure) => {
        const difference = differenceOf(measure, a, b);
        const means = [a, b].map((arm) => percent(mean(Object.values(measure.scores[arm]))));
        const title = measure.stable ? `${measure.name}, all tasks` : measure.name;
        const note = difference.missing?.length ? ` without ${difference.missing.join(", ")}` : "";
        return [title + note, ...means, difference.text, difference.interval, difference.perSeed];
      });
    const names = [a, b].map((arm) => data.arms[arm].name);
    return table(["score", ...names, "difference", "95 %", "by seed"], rows);
  }

  function frame(box, name) {
    if (!box) return [];
    const [left, top, right, bottom] = box.map((edge) => 100 * edge);
    const style = `left:${left}%;top:${top}%;width:${right - left}%;height:${bottom - top}%`;
    return [element("i", { class: name, style })];
  }

  function card(question, a, b) {
    const answers = [a, b].map((arm) => question.answers[arm]);
    const image = element("img", { src: question.uri, alt: `image of question ${question.question}` });
    if (question.pixels) image.className = "pixels";
    const frames = [question.box, answers[0][2], answers[1][2]].flatMap((box, index) =>
      frame(box, ["truth", "first", "second"][index]),
    );
    const list = element("dl", {}, element("dt", {}, "truth"), element("dd", {}, question.truth));
    [a, b].forEach((arm, index) => {
      const [text, score] = answers[index];
      list.append(element("dt", {}, data.arms[arm].name));
      list.append(element("dd", { class: score >= 0.5 ? "correct" : "wrong" }, text || "(nothing)"));
    });
    return element(
      "article",
      {},
      element("div", { class: "sample-image" }, image, ...frames),
      element("p", { class: "task" }, question.task),
      element("p", { class: "question" }, question.prompt),
      list,
    );
  }

  function show() {
    const [a, b] = [Number(first.value), Number(second.value)];
    const names = [a, b].map((arm) => data.arms[arm].name);
    const labels = [a, b].map((arm) => Object.values(data.arms[arm].labels)[0]);
    if (a === b) return output.replaceChildren(element("p", { class: "note" }, "Choose two different arms."));
    const fields = data.recipes[`${Math.min(a, b)} ${Math.max(a, b)}`];
    const rows = (fields ?? []).map(([path, ...values]) => [path, ...(a < b ? values : values.reverse())]);
    const differing = data.questions.filter(
      ({ answers }) => answers[a] && answers[b] && answers[a][1] !== answers[b][1],
    );
    const commands = `firstsight explain ${names.join(" ")} · firstsight answers ${labels.join(" ")}`;
    output.replaceChildren(
      element("h3", {}, "Recipes"),
      rows.length ? table(["field", ...names], rows, "k") : element("p", { class: "note" }, fields ? "They differ in nothing." : "Not on this page; the first command below prints them."),
      element("h3", {}, "Scores"),
      scoreRows(a, b),
      element(
        "p",
        { class: "note" },
        "In %, means over seeds. A difference is the first arm minus the second in points, over the seeds that both have; " +
          "its interval, over seeds and questions (of one seed: over questions alone), is for this pair alone and not " +
          "corrected for choosing it among others.",
      ),
      element("h3", {}, `Pictures that they answer differently: ${differing.length} of the ${data.questions.length} on this page`),
      element("div", { class: "samples" }, ...differing.map((question) => card(question, a, b))),
      element("p", { class: "note" }, "The answers of the first seed of each arm. All differences: ", element("code", {}, commands)),
    );
  }

  data.hasIntervals = Object.keys(data.intervals).length > 0;
  for (const select of [first, second]) {
    select.append(...data.arms.map((arm, index) => element("option", { value: index }, arm.name)));
    select.addEventListener("change", show);
  }
  second.value = 1;
  section.hidden = false;
  // Built when the reader comes near, so that the page opens at once.
  const observer = new IntersectionObserver((entries) => {
    if (!entries.some((entry) => entry.isIntersecting)) return;
    observer.disconnect();
    show();
  }, { rootMargin: "600px" });
  observer.observe(section);
})();

(() => {
  const state = document.getElementById("state");
  const REFRESH_MILLISECONDS = 10000;
  if (state) setInterval(() => document.hidden || location.reload(), REFRESH_MILLISECONDS);
})();
