"use strict";
(() => {
  const specs = JSON.parse(document.getElementById("specs").textContent);
  const options = {
    renderer: "svg",
    actions: { export: { svg: true, png: true }, source: false, compiled: false, editor: false },
    tooltip: { theme: "light" },
  };

  // Small multiples: as many columns as fit, each as wide as its share.
  function faceted(spec, width) {
    const columns = Math.max(2, Math.min(4, Math.floor(width / 132)));
    const gap = 14;
    const cell = Math.floor((width - 44) / columns) - gap;
    const tasks = new Set(Object.values(spec.datasets ?? {}).flat().concat(spec.data?.values ?? []).map((row) => row.task));
    const room = columns < 4 ? 0 : 470 / Math.ceil(tasks.size / columns) - 46;
    const height = Math.max(Math.round(cell * 0.62), Math.min(Math.round(room), 150));
    return { ...spec, columns, spacing: { row: 22, column: gap }, spec: { ...spec.spec, width: cell, height } };
  }

  function fitted(name, width) {
    const spec = structuredClone(specs[name]);
    spec.config.background = "transparent";
    if (spec.facet) {
      // The figure beside it explains the colours.
      for (const layer of spec.spec.layer) if (layer.encoding.color) layer.encoding.color.legend = null;
      return faceted(spec, width);
    }
    // Legends of arms wrap where the page is narrow.
    for (const layer of spec.layer) {
      const legend = layer.encoding?.color?.legend;
      if (legend?.columns) legend.columns = Math.max(2, Math.floor(width / 104));
    }
    spec.width = "container";
    spec.autosize = { type: "fit-x", contains: "padding" };
    return spec;
  }

  const drawn = new Map();
  async function draw(node) {
    const width = node.clientWidth;
    if (drawn.get(node) === width) return;
    drawn.set(node, width);
    await vegaEmbed(node, fitted(node.dataset.chart, width), options);
  }

  const nodes = [...document.querySelectorAll("[data-chart]")];
  const drawAll = () => nodes.forEach((node) => draw(node));
  drawAll();
  let waiting;
  addEventListener("resize", () => {
    clearTimeout(waiting);
    waiting = setTimeout(drawAll, 150);
  });
})();
