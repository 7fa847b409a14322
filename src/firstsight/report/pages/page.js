"use strict";
(() => {
  const specs = JSON.parse(document.getElementById("specs").textContent);
  const options = {
    renderer: "svg",
    actions: { export: { svg: true, png: true }, source: false, compiled: false, editor: false },
    tooltip: { theme: "light" },
  };

  const rowsOf = (spec) => Object.values(spec.datasets ?? {}).flat();

  // Pixels of the longest of some labels at the left of a figure.
  const labelWidth = (labels, limit) => Math.min(6.4 * Math.max(0, ...labels.map((label) => String(label).length)), limit);

  // Small multiples: as many columns as fit, each as wide as its share. Panels of arms from top to bottom keep their height.
  function fitFacets(spec, width) {
    const isListed = Boolean(spec.spec.height?.step);
    const labels = isListed ? labelWidth(rowsOf(spec).map((row) => row.place), 100) + 12 : 44;
    const columns = Math.max(2, Math.min(width > 900 ? 7 : 4, Math.floor((width - labels + 44) / 132)));
    const gap = 14;
    const cell = Math.floor((width - labels) / columns) - gap;
    if (isListed) return { ...spec, columns, spacing: { row: 22, column: gap }, spec: { ...spec.spec, width: cell } };
    const tasks = new Set(rowsOf(spec).map((row) => row.task));
    const available = columns < 4 ? 0 : 470 / Math.ceil(tasks.size / columns) - 46;
    const height = Math.max(Math.round(cell * 0.62), Math.min(Math.round(available), 150));
    return { ...spec, columns, spacing: { row: 22, column: gap }, spec: { ...spec.spec, width: cell, height } };
  }

  function fitChart(name, width) {
    const spec = structuredClone(specs[name]);
    spec.config.background = "transparent";
    if (spec.facet?.field === "kind") {
      const columns = width < 640 ? 1 : 2;
      const labels = labelWidth(rowsOf(spec).map((row) => row.row ?? ""), 130) + 56;
      return { ...spec, columns, spec: { ...spec.spec, width: Math.floor((width - labels) / columns) - 20 } };
    }
    if (spec.facet?.field === "measure") {
      const columns = width < 700 ? 2 : 4;
      const gap = 16;
      const cell = Math.floor((width - 66) / columns) - gap;
      return { ...spec, columns, spacing: { row: 22, column: gap }, spec: { ...spec.spec, width: cell } };
    }
    if (spec.facet) {
      // The legend is in the neighbouring figure.
      for (const layer of spec.spec.layer) if (layer.encoding.color) layer.encoding.color.legend = null;
      return fitFacets(spec, width);
    }
    // Legends of arms and of lines wrap where the page is narrow.
    const isListed = [spec, ...spec.layer].some((part) => part.encoding?.y?.type === "nominal");
    const left = 40 + (isListed ? labelWidth(rowsOf(spec).map((row) => row.place ?? ""), 150) : 0);
    for (const layer of spec.layer)
      for (const channel of ["color", "shape", "strokeDash"]) {
        const legend = layer.encoding?.[channel]?.legend;
        if (!legend?.columns) continue;
        const longest = Math.max(...layer.encoding[channel].scale.domain.map((name) => name.length));
        const columnWidth = Math.max(104, 34 + Math.min(6.6 * longest, legend.labelLimit ?? 200));
        legend.columns = Math.max(1, Math.floor((width - left) / columnWidth));
      }
    if (spec.height?.step) spec.height = spec.height.step * new Set(rowsOf(spec).map((row) => row.task)).size;
    spec.width = "container";
    spec.autosize = { type: "fit-x", contains: "padding" };
    return spec;
  }

  const drawnWidths = new Map();
  async function draw(node) {
    const width = node.clientWidth;
    if (drawnWidths.get(node) === width) return;
    drawnWidths.set(node, width);
    await vegaEmbed(node, fitChart(node.dataset.chart, width), options);
  }

  const nodes = [...document.querySelectorAll("[data-chart]")];
  // One after the other, so that the page can be read and scrolled meanwhile.
  async function drawAll() {
    for (const node of nodes) {
      await draw(node);
      await new Promise((resolve) => setTimeout(resolve));
    }
  }
  drawAll();
  // A printed page has the stages of the arms and the plan; the table of scores stays closed.
  addEventListener("beforeprint", () => {
    for (const part of document.querySelectorAll("#arms details, #plan details")) part.open = true;
  });
  let timer;
  addEventListener("resize", () => {
    clearTimeout(timer);
    timer = setTimeout(drawAll, 150);
  });
})();
