"use strict";
(() => {
  const specs = JSON.parse(document.getElementById("figures").textContent);
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const printing = matchMedia("print");
  const scales = {
    light: [[0, "#eef4f9"], [0.02, "#d6e6f3"], [0.15, "#9ac4e2"], [0.5, "#3f8fc4"], [1, "#08406b"]],
    dark: [[0, "#1d2730"], [0.02, "#22394d"], [0.15, "#2b618a"], [0.5, "#4fa3d8"], [1, "#c9e6fb"]],
  };
  const settings = {
    responsive: true, displaylogo: false, showSendToCloud: false,
    modeBarButtonsToRemove: ["lasso2d", "select2d", "autoScale2d"],
  };

  // Colours written as "@name" stand for the page's own; only under keys that hold colours.
  function paint(value, colours, key = "") {
    if (Array.isArray(value)) {
      return typeof value[0] === "object" ? value.map((entry) => paint(entry, colours, key)) : value;
    }
    if (value && typeof value === "object") {
      return Object.fromEntries(Object.entries(value).map(([k, v]) => [k, paint(v, colours, k)]));
    }
    return /color/.test(key) && typeof value === "string" && value[0] === "@" ? colours[value.slice(1)] : value;
  }

  function draw(div) {
    const spec = specs[div.dataset.figure];
    const light = printing.matches || !dark.matches;
    const style = getComputedStyle(document.documentElement);
    const colours = { share: scales[light ? "light" : "dark"] };
    for (const name of ["paper", "ink", "muted", "faint", "line", "accent"]) {
      colours[name] = style.getPropertyValue(`--${name}`).trim();
    }
    const layout = paint(spec.layout, colours);
    layout.paper_bgcolor = layout.plot_bgcolor = "rgba(0,0,0,0)";
    layout.font = { color: colours.ink, size: 13, family: "system-ui, sans-serif" };
    layout.hoverlabel = {
      bgcolor: colours.paper, bordercolor: colours.faint, align: "left", font: { color: colours.ink, size: 13 },
    };
    for (const name of ["xaxis", "yaxis"]) {
      layout[name] = {
        gridcolor: colours.line, zerolinecolor: colours.line, linecolor: colours.faint, zeroline: false,
        ...layout[name],
      };
    }
    const large = div.dataset.figure === "front"; // the only one with so many points that zooming helps
    layout.dragmode = large ? "zoom" : false;
    layout.modebar = { bgcolor: "rgba(0,0,0,0)", color: colours.faint, activecolor: colours.ink };
    return Plotly.react(div, paint(spec.data, colours), layout, { ...settings, displayModeBar: large && div.clientWidth > 600 });
  }

  // The hover texts of a large confusion matrix, built here to keep the file small.
  for (const trace of Object.values(specs).flatMap((spec) => spec.data)) {
    if (trace.counts) {
      trace.customdata = trace.counts.map((row, i) => row.map((n, j) => [trace.names[i], trace.names[j], n]));
      delete trace.counts;
      delete trace.names;
    }
  }

  const figures = [...document.querySelectorAll("[data-figure]")];
  const redraw = () => figures.forEach(draw);
  figures.forEach((div) => { div.textContent = ""; });
  redraw();
  dark.addEventListener("change", redraw);
  printing.addEventListener("change", redraw);

  const front = document.querySelector('[data-figure="front"]');
  const cost = document.getElementById("cost");
  const scale = document.getElementById("scale");
  if (front && cost && scale) {
    const update = () => {
      const spec = specs.front;
      const view = spec.views[cost.value];
      spec.data.forEach((trace, k) => { trace.x = view.x[k]; });
      spec.data[spec.line].y = view.front;
      if (spec.knee !== null) Object.assign(spec.data[spec.knee], view.knee);
      for (const part of document.querySelectorAll("[data-cost]")) part.hidden = part.dataset.cost !== cost.value;
      Object.assign(spec.layout, { xaxis: view.xaxis, shapes: view.shapes });
      Object.assign(spec.layout.yaxis, spec.scales[scale.value]);
      draw(front);
    };
    cost.addEventListener("change", update);
    scale.addEventListener("change", update);
  }
  document.documentElement.dataset.drawn = String(figures.length);
})();
