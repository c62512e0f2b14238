// Accuracy against cost: the models, those that no other dominates, and what one would pick.
"use strict";

Complexity.sections.push({
  id: "front",
  title: "Accuracy against cost",
  help:
    "Each point is a model: the mean over runs that differ in their seed only, at their last measurement, with one standard error where there are several. The stairs are the Pareto front: no model is both better and simpler than one on it. The band holds the scores within one standard error of the best; the star is the simplest model in it. A model that has a value that is not finite is left out with all its runs.",

  exists: (data) => data.fronts.length > 0,

  controls(data, state, redraw) {
    const unique = (name) => [...new Set(data.fronts.map((front) => front[name]))];
    const [scores, costs] = [unique("score"), unique("cost")];
    state.score = scores.includes(state.score) ? state.score : scores[0];
    const varies = (key) => new Set(data.models.map((model) => model.means[key])).size > 1;
    state.cost = costs.includes(state.chosen) ? state.chosen : costs.find(varies) ?? costs[0];
    const options = (keys) => keys.map((key) => [key, data.label(key)]);
    return [
      Complexity.choice("score", options(scores), state.score, (score) => redraw({ score })),
      Complexity.choice("cost", options(costs), state.cost, (cost) => redraw({ chosen: cost })),
    ];
  },

  draw(data, state, classes, parts, root) {
    const front = data.fronts.find((one) => one.score === state.score && one.cost === state.cost);
    if (!front) {
      parts.words.textContent = "No model has both.";
      return Complexity.draw(parts.chart, [], Complexity.layout(root, { height: 380 }));
    }
    parts.chart.hidden = data.models.length < 2;
    parts.words.textContent = front.sentence;
    if (parts.chart.hidden) return Promise.resolve();
    const models = data.models.map((model, row) => Complexity.modelPoint(data, model, row, front, classes));
    const finite = models.filter((model) => Number.isFinite(model.x) && Number.isFinite(model.y));
    const traces = [Complexity.frontLine(finite, front), ...Complexity.modelTraces(finite, front)];
    const costs = finite.map((model) => model.x);
    const isLog = !data.measures[front.cost].is_log && Math.min(...costs) > 0 && Math.max(...costs) > 30 * Math.min(...costs);
    const left = front.left_out.map((row) => data.models[row].name);
    parts.words.textContent = `${front.sentence}${left.length ? ` Not finite, and so left out: ${left.slice(0, 5).map((name) => Complexity.shortened(name)).join("; ")}${left.length > 5 ? ` and ${left.length - 5} more` : ""}.` : ""}`;
    const dark = Complexity.isDark();
    const band = Number.isFinite(front.bound) && front.best !== undefined
      ? [{ type: "rect", xref: "paper", x0: 0, x1: 1, y0: front.bound, y1: data.models[front.best].means[front.score], fillcolor: dark ? "#ffffff" : "#000000", opacity: 0.09, line: { width: 0 }, layer: "below", name: "band" }]
      : [];
    const word = data.measures[front.cost].is_log ? "natural logarithm: " : "";
    const layout = Complexity.layout(root, {
      height: 400,
      uirevision: `${state.score} ${state.cost}`,
      shapes: band,
      xaxis: { title: { text: Complexity.plain(word + data.label(front.cost)) }, type: isLog ? "log" : "linear" },
      yaxis: { title: { text: Complexity.plain(data.label(front.score)) } },
      showlegend: true,
    });
    return Complexity.draw(parts.chart, traces, layout);
  },
});

Complexity.modelPoint = (data, model, row, front, classes) => {
  const own = classes.find((one) => one.runs.some((place) => data.runs[place].group === row));
  const [x, y] = [model.means[front.cost], model.means[front.score]];
  const [ex, ey] = [model.errors[front.cost], model.errors[front.score]];
  const pm = (value, error) => `${Complexity.number(value)}${Number.isFinite(error) ? ` ± ${Complexity.number(error)}` : ""}`;
  const text = `${Complexity.plain(Complexity.shortened(model.name, 60))}<br>${Complexity.plain(data.label(front.score))} ${pm(y, ey)}<br>${Complexity.plain(data.label(front.cost))} ${pm(x, ex)}`;
  return { row, x, y, ex, ey, text, color: own?.color, faded: !own, name: model.name };
};

// Better scores cost more: from each model of the front the stair goes to the next dearer one.
Complexity.frontLine = (models, front) => {
  const dearer = front.directions[1] === "minimize" ? 1 : -1;
  const on = models.filter((model) => front.front.includes(model.row)).sort((a, b) => dearer * (a.x - b.x));
  return {
    x: on.map((model) => model.x), y: on.map((model) => model.y), mode: "lines", meta: "front", name: "Pareto front",
    line: { shape: "hv", width: 1.5, dash: "dot", color: Complexity.isDark() ? "#bbbbbb" : "#555555" }, hoverinfo: "skip",
  };
};

Complexity.modelTraces = (models, front) => {
  const bars = (name) => ({ type: "data", array: models.map((model) => model[name] ?? 0), visible: models.some((model) => model[name] > 0), thickness: 1, width: 3, color: Complexity.isDark() ? "#aaaaaa" : "#777777" });
  const few = models.length <= 10;
  const points = {
    x: models.map((model) => model.x), y: models.map((model) => model.y), text: models.map((model) => model.text),
    customdata: models.map((model) => model.name), hovertemplate: "%{text}<extra></extra>", mode: "markers", name: "models", meta: "models", showlegend: false,
    marker: { size: few ? 11 : 8, color: models.map((model) => model.color ?? "#999999"), opacity: models.map((model) => (model.faded ? 0.15 : few ? 1 : 0.7)) },
    error_x: bars("ex"), error_y: bars("ey"),
  };
  const chosen = models.find((model) => model.row === front.chosen);
  if (!chosen) return [points];
  const star = {
    x: [chosen.x], y: [chosen.y], text: [chosen.text], customdata: [chosen.name], hovertemplate: "the one to pick<br>%{text}<extra></extra>", mode: "markers",
    name: "the one to pick", meta: "chosen", marker: { symbol: "star", size: 20, color: chosen.color ?? "#999999", line: { color: Complexity.isDark() ? "#ffffff" : "#000000", width: 1.5 } },
  };
  return [points, star];
};
