// Curves of every measure, with bands over seeds.
"use strict";

Complexity.axes = { steps: "completed optimizer steps", epochs: "epoch", seconds: "seconds since the first measurement", loss: "training loss" };
Complexity.trainLoss = "probe/train_loss";

Complexity.sections.push({
  id: "curves",
  title: "Curves",
  help:
    "One panel for each measure. Thin lines are runs, with one standard error of estimates as a band where a panel has few runs. Thick lines are medians over runs that differ in their seed only, at equal shares of their training, with a band from the least to the greatest of up to three seeds and between the quartiles of more. Against the training loss, training goes from left to right. Of runs of which one ends in a value that is not finite there is no median. Triangles and crosses at the edge are values that are infinite or not a number. Dashed lines are of validation samples.",

  exists: (data) => data.keys.length > 0,

  controls(data, state, redraw) {
    state.keys = state.chosen?.filter((panel) => Complexity.panels(data).some((one) => one.id === panel)) ?? Complexity.firstPanels(data);
    const hasLoss = data.keys.includes(Complexity.trainLoss);
    const options = Object.entries(Complexity.axes).filter(([name]) => name !== "loss" || hasLoss);
    return [
      Complexity.choice("against", options, (state.axis ??= "steps"), (axis) => redraw({ axis })),
      Complexity.choice("scale", [["auto", "as fits"], ["log", "logarithmic"], ["linear", "linear"]], (state.scale ??= "auto"), (scale) => redraw({ scale })),
      Complexity.choice("smoothing", [["0", "none"], ["0.6", "some"], ["0.9", "much"]], (state.smoothing ??= "0"), (smoothing) => redraw({ smoothing })),
      Complexity.panelChoice(data, state, redraw),
    ];
  },

  draw(data, state, classes, parts, root) {
    parts.chart.classList.add("panels");
    const panels = Complexity.panels(data).filter((one) => state.keys.includes(one.id));
    const old = new Map([...parts.chart.children].map((node) => [node.dataset.panel, node]));
    const nodes = panels.map((panel) => old.get(panel.id) ?? Complexity.element("div", { className: "panel", dataset: { panel: panel.id } }));
    for (const node of old.values()) if (!nodes.includes(node)) Plotly.purge(node);
    parts.chart.replaceChildren(...nodes);
    parts.words.textContent = panels.length ? "" : "Choose measures to draw.";
    return Promise.all(panels.map((panel, i) => Complexity.drawPanel(data, state, classes, panel, nodes[i], root)));
  },
});

// Losses together, accuracies together, and each measure by itself.
Complexity.panels = (data) => {
  const probes = data.byRole("probe");
  const together = ["loss", "accuracy"].map((fit) => ({
    id: fit, label: `${fit} (dashed: validation)`, keys: probes.filter((key) => key.endsWith(`_${fit}`)), isLog: false, part: false,
  }));
  const rest = [...probes.filter((key) => !together.some((one) => one.keys.includes(key))), ...data.byRole("complexity"), ...data.byRole("part")];
  const alone = rest.map((key) => {
    const measure = data.measures[key];
    const words = [measure.is_log && !measure.units ? "natural logarithm" : "", measure.more_complex ? `${measure.more_complex}: more complex` : ""].filter(Boolean);
    return { id: key, label: `${measure.label}${words.length ? ` (${words.join("; ")})` : ""}`, keys: [key], units: measure.units, isLog: measure.is_log, part: measure.role === "part" };
  });
  return [...together.filter((one) => one.keys.length), ...alone];
};

// What never changes is drawn when it is asked for.
Complexity.firstPanels = (data) => {
  const steady = (key) => data.runs.every((_, place) => new Set(data.series(place, key).values).size < 2 && !data.series(place, key).strange.length);
  return Complexity.panels(data).filter((one) => !one.part && !one.keys.every(steady)).slice(0, 12).map((one) => one.id);
};

Complexity.panelChoice = (data, state, redraw) => {
  const { element } = Complexity;
  const boxes = Complexity.panels(data).map((panel) => {
    const box = element("input", { type: "checkbox", value: panel.id, checked: state.keys.includes(panel.id), on: { change: () => apply() } });
    return element("label", { className: "box" }, box, element("span", { textContent: panel.label }));
  });
  const inputs = () => boxes.map((label) => label.firstChild);
  const apply = () => {
    const keys = inputs().filter((box) => box.checked).map((box) => box.value);
    redraw({ chosen: keys, keys }, false);
  };
  const all = (checked) => {
    for (const box of inputs()) box.checked = checked;
    apply();
  };
  const buttons = [element("button", { type: "button", textContent: "all", on: { click: () => all(true) } }), element("button", { type: "button", textContent: "none", on: { click: () => all(false) } })];
  return element("details", { className: "boxes", open: Boolean(state.open), on: { toggle: (event) => (state.open = event.target.open) } }, element("summary", { textContent: `measures (${boxes.length})` }), ...buttons, ...boxes);
};

Complexity.curve = (data, place, key, axis) => {
  const series = data.series(place, key);
  if (axis !== "loss") return { steps: series.steps, x: series[axis], y: series.values };
  return data.joined(place, Complexity.trainLoss, key);
};

Complexity.smoothed = (values, weight) => {
  if (!weight) return values;
  let [sum, total] = [0, 0];
  return values.map((value) => {
    sum = weight * sum + (1 - weight) * value;
    total = weight * total + (1 - weight);
    return sum / total;
  });
};

Complexity.drawPanel = (data, state, classes, panel, node, root) => {
  const number = classes.reduce((sum, one) => sum + one.runs.length, 0);
  const values = [];
  const traces = classes.flatMap((one) => panel.keys.flatMap((key) => Complexity.curveTraces(data, state, one, key, number, values)));
  const strange = classes.flatMap((one) => panel.keys.flatMap((key) => Complexity.strangeTraces(data, state, one, key)));
  const [least, greatest] = values.reduce(([low, high], value) => [Math.min(low, value), Math.max(high, value)], [Infinity, -Infinity]);
  const fits = !panel.isLog && least > 0 && greatest > 100 * least;
  const isLog = state.scale === "log" || (state.scale === "auto" && fits);
  const loss = state.axis === "loss";
  const losses = loss ? traces.flatMap((trace) => trace.x).filter((x) => x !== null) : [];
  const isLogLoss = loss && losses.filter((x) => x <= 0).length < 0.2 * losses.length; // likelihoods may be below 0
  const layout = Complexity.layout(root, {
    height: 270,
    uirevision: `${state.axis} ${isLogLoss} ${isLog}`, // a zoom is kept while the axes are the same
    margin: { l: panel.units ? 58 : 45, r: 10, t: 30, b: 40 },
    title: { text: Complexity.plain(Complexity.shortened(panel.label, 62)), font: { size: 12.5 }, x: 0.02, xanchor: "left", y: 0.97 },
    showlegend: false,
    xaxis: { title: { text: Complexity.axes[state.axis], font: { size: 11 } }, type: isLogLoss ? "log" : "linear", ...(loss ? { autorange: "reversed" } : {}) },
    yaxis: { title: { text: Complexity.plain(panel.units || ""), font: { size: 11 } }, type: isLog ? "log" : "linear" },
    ...(strange.length ? { yaxis2: { overlaying: "y", range: [0, 1], visible: false, fixedrange: true } } : {}),
  });
  return Complexity.draw(node, [...traces, ...strange], layout);
};

Complexity.curveTraces = (data, state, one, key, number, values) => {
  const path = { x: [], y: [], text: [] };
  const dash = key.split("/").at(-1).startsWith("val_") ? "dash" : "solid";
  const bands = [];
  const smoothing = Number(state.smoothing);
  const curves = new Map(one.runs.map((place) => [place, Complexity.curve(data, place, key, state.axis)]));
  for (const [place, curve] of curves) {
    curve.y = Complexity.smoothed(curve.y, smoothing);
    const name = Complexity.plain(Complexity.shortened(data.runs[place].name, 60));
    for (const value of curve.y) values.push(value);
    path.x.push(...curve.x, null);
    path.y.push(...curve.y, null);
    path.text.push(...curve.y.map((value, i) => `${name}<br>${Complexity.plain(data.label(key))} ${Complexity.number(value)}<br>step ${curve.steps[i]}`), "");
    if (number <= 6 && !smoothing) bands.push(...Complexity.errorBand(data, place, key, curve, one.color));
  }
  const groups = Complexity.repeated(data, one.runs).filter((places) => places.every((place) => curves.get(place).y.length && !Complexity.bursts(data, place, [key])));
  const common = { name: Complexity.plain(one.name), hovertemplate: "%{text}<extra></extra>", showlegend: false };
  const mode = number <= 4 && path.x.length < 60 ? "lines+markers" : "lines";
  const fade = Complexity.fade(number) * (groups.length ? 0.6 : 1);
  const thin = { ...path, ...common, mode, line: { color: one.color, width: 1.2, dash }, marker: { size: 4, color: one.color }, opacity: fade, meta: "runs", customdata: [key] };
  return [...bands, thin, ...groups.flatMap((places) => Complexity.medianCurve(data, places, curves, one.color, dash, common))];
};

Complexity.band = (x, low, high, color, opacity) => ({
  x: [...x, ...[...x].reverse()], y: [...high, ...[...low].reverse()], mode: "lines", fill: "toself", line: { width: 0 }, fillcolor: color, opacity, hoverinfo: "skip", showlegend: false, meta: "band",
});

Complexity.errorBand = (data, place, key, curve, color) => {
  const errors = data.series(place, `${key}/standard_error`);
  if (errors.values.length < 2) return [];
  const spread = curve.steps.map((step) => Complexity.asOf(errors, step) ?? 0);
  return [Complexity.band(curve.x, curve.y.map((value, i) => value - spread[i]), curve.y.map((value, i) => value + spread[i]), color, 0.18)];
};

Complexity.medianCurve = (data, places, curves, color, dash, common) => {
  const median = Complexity.medians(places.map((place) => curves.get(place)));
  const group = Complexity.plain(data.groups[data.runs[places[0]].group].name);
  const text = median.y.map((value) => `median of ${Complexity.repeats(data, places)}: ${Complexity.number(value)}<br>${group}`);
  return [
    Complexity.band(median.x, median.low, median.high, color, 0.15),
    { ...common, x: median.x, y: median.y, text, mode: "lines", line: { color, width: 2.4, dash }, meta: "medians" },
  ];
};

// Values that are not finite have no place on the axis: they are marked at its edge.
Complexity.strangeTraces = (data, state, one, key) => {
  const looks = { Infinity: ["triangle-up", 0.97], "-Infinity": ["triangle-down", 0.03], NaN: ["x", 0.03] };
  const points = { x: [], y: [], text: [], symbol: [] };
  for (const place of one.runs) {
    for (const odd of data.series(place, key).strange) {
      const loss = state.axis === "loss" ? Complexity.asOf(data.series(place, Complexity.trainLoss), odd.step) : undefined;
      const x = { steps: odd.step, epochs: odd.epoch, seconds: odd.second, loss }[state.axis];
      if (x === undefined) continue;
      points.x.push(x);
      points.y.push(looks[odd.name][1]);
      points.symbol.push(looks[odd.name][0]);
      points.text.push(`${Complexity.plain(data.runs[place].name)}<br>${Complexity.number(odd.name)} at step ${odd.step}`);
    }
  }
  if (!points.x.length) return [];
  return [{ x: points.x, y: points.y, text: points.text, yaxis: "y2", mode: "markers", marker: { symbol: points.symbol, size: 9, color: one.color }, hovertemplate: "%{text}<extra></extra>", showlegend: false, meta: "not finite" }];
};
