// Small helpers that all charts share. Names of runs and tags are untrusted: they only ever become text.
"use strict";
globalThis.Complexity = globalThis.Complexity || { sections: [] };

Complexity.element = (tag, properties = {}, ...children) => {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name === "dataset") Object.assign(node.dataset, value);
    else if (name === "on") for (const [event, call] of Object.entries(value)) node.addEventListener(event, call);
    else if (name in node) node[name] = value;
    else node.setAttribute(name, value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
};

// Plotly takes text for a little HTML; with entities it shows what was meant.
Complexity.plain = (text) =>
  String(text).replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");

Complexity.number = (value) => {
  if (typeof value === "string") return { Infinity: "∞", "-Infinity": "−∞", NaN: "not a number" }[value] ?? value;
  if (value === null || value === undefined) return "–";
  if (Number.isInteger(value) && Math.abs(value) < 1e6) return String(value);
  return Number(value.toPrecision(4)).toString();
};

Complexity.shortened = (text, length = 48) => {
  const letters = [...String(text)];
  const half = Math.floor((length - 1) / 2);
  return letters.length <= length ? String(text) : `${letters.slice(0, half).join("")}…${letters.slice(-half).join("")}`;
};

Complexity.choice = (label, options, value, change) => {
  const { element } = Complexity;
  const select = element("select", { on: { change: () => change(select.value) } });
  for (const [name, text] of options) select.append(element("option", { value: name, textContent: text }));
  select.value = value;
  return element("label", {}, element("span", { textContent: label }), select);
};

// New choices for old ones; what has the focus, its like has afterwards.
Complexity.renew = (node, ...children) => {
  const fields = () => [...node.querySelectorAll("a, button, input, select")];
  const place = fields().indexOf(document.activeElement);
  node.replaceChildren(...children);
  if (place >= 0) fields()[place]?.focus({ preventScroll: true });
};

Complexity.colors = ["#3b6fd4", "#d9622b", "#2c9c69", "#b0479c", "#a8851c", "#6a5acd", "#1f9aad", "#c23b4e", "#7a8a2a", "#8c6d5a"];
Complexity.darkColors = ["#7aa5ff", "#ff9a66", "#5fd39b", "#e38ad0", "#e0bd50", "#a99cff", "#5fd0e3", "#ff8090", "#b5c95a", "#c7a48f"];
Complexity.isDark = () => Boolean(globalThis.matchMedia?.("(prefers-color-scheme: dark)").matches);
Complexity.setTheme = () => (document.documentElement.dataset.theme = Complexity.isDark() ? "dark" : "light");
Complexity.palette = () => (Complexity.isDark() ? Complexity.darkColors : Complexity.colors);

// From blue to orange, for settings that are numbers with many values.
Complexity.shade = (share) => `hsl(${Math.round(220 - 195 * share)} 70% ${Complexity.isDark() ? 65 : 45}%)`;

Complexity.layout = (root, more = {}) => {
  const style = getComputedStyle(root);
  const [text, grid] = [style.getPropertyValue("--text").trim(), style.getPropertyValue("--grid").trim()];
  const axis = { gridcolor: grid, linecolor: grid, zerolinecolor: grid, automargin: true, exponentformat: "power", minexponent: 6, separatethousands: true };
  const { xaxis, yaxis, xaxis2, yaxis2, ...others } = more;
  const own = (given) => ({ ...axis, ...(given?.type === "log" ? { tickformat: "~g" } : {}), ...given });
  return {
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    font: { color: text, size: 12, family: "system-ui, sans-serif" },
    margin: { l: 50, r: 15, t: 10, b: 45 },
    hovermode: "closest",
    hoverlabel: { align: "left" },
    legend: { orientation: "h", y: 1.02, yanchor: "bottom", x: 0 },
    xaxis: own(xaxis),
    yaxis: own(yaxis),
    ...(xaxis2 ? { xaxis2: own(xaxis2) } : {}),
    ...(yaxis2 ? { yaxis2: own(yaxis2) } : {}),
    ...others,
  };
};

Complexity.isNarrow = (root) => root.clientWidth < 640;

Complexity.draw = (node, traces, layout) =>
  Plotly.react(node, traces, layout, { responsive: true, displaylogo: false, modeBarButtonsToRemove: ["lasso2d", "select2d"] });

// A chart's frame: title, choices, the drawing, and what it says in words.
Complexity.section = (id, title, help) => {
  const { element } = Complexity;
  const parts = {
    node: element("section", { id }),
    controls: element("div", { className: "controls" }),
    chart: element("div", { className: "chart" }),
    words: element("p", { className: "words" }),
  };
  const about = element("details", {}, element("summary", { textContent: "How to read this" }), element("p", { textContent: help }));
  parts.node.append(element("h2", { textContent: title }), parts.controls, parts.chart, parts.words, about);
  return parts;
};
