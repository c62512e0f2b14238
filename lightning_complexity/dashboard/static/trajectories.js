// Runs in the plane of complexity and generalization gap, from a hollow start to a filled end.
"use strict";

Complexity.sections.push({
  id: "trajectories",
  title: "Complexity against the generalization gap",
  help:
    "Each line is a run: a hollow circle where it starts, a filled one where it ends. A cross marks where all samples of the training probe were classified correctly first. Bars at the ends are one standard error, of the estimate or, at the thick median of runs that differ in their seed only, of the mean over these seeds. Medians are taken at equal shares of the training, where all of these runs end in numbers.",

  exists: (data) => data.byRole("complexity").length && data.byRole("probe").length,

  controls(data, state, redraw) {
    const measures = [...data.byRole("complexity"), ...data.byRole("part")];
    const gaps = [...data.byRole("probe")].sort((a, b) => b.endsWith("_gap") - a.endsWith("_gap"));
    const steady = (key) => data.runs.every((_, place) => new Set(data.series(place, key).values).size < 2);
    const first = measures.find((key) => data.measures[key].is_log && !steady(key)) ?? measures.find((key) => !steady(key));
    state.measure = measures.includes(state.chosen) ? state.chosen : first ?? measures[0];
    state.gap = gaps.includes(state.against) ? state.against : gaps[0];
    const options = (keys) => keys.map((key) => [key, data.label(key)]);
    return [
      Complexity.choice("measure", options(measures), state.measure, (key) => redraw({ chosen: key })),
      Complexity.choice("against", options(gaps), state.gap, (key) => redraw({ against: key })),
      Complexity.choice("lines", [["both", "runs and medians"], ["runs", "runs"], ["medians", "medians over seeds"]], (state.lines ??= "both"), (lines) => redraw({ lines })),
    ];
  },

  draw(data, state, classes, parts, root) {
    const lines = new Map();
    let [atZero, strange] = [0, 0];
    const measure = data.measures[state.measure];
    for (const place of classes.flatMap((one) => one.runs)) {
      lines.set(place, data.joined(place, state.measure, state.gap));
      strange += data.series(place, state.measure).strange.length + data.series(place, state.gap).strange.length;
    }
    const all = [...lines.values()].flatMap((line) => line.x);
    const notPositive = all.filter((value) => value <= 0).length;
    const isLog = !measure.is_log && all.length > 0 && notPositive < 0.2 * all.length;
    if (isLog && notPositive) {
      atZero = notPositive;
      for (const [place, line] of lines) lines.set(place, Complexity.positive(line));
    }
    const fade = Complexity.fade(lines.size);
    const drawn = { data, state, lines, fade };
    const traces = classes.flatMap((one) => Complexity.trajectoryTraces(one, drawn));
    const more = measure.more_complex && !Complexity.isNarrow(root) ? ` (${measure.more_complex} is more complex)` : "";
    const title = `${measure.is_log && !Complexity.isNarrow(root) ? "natural logarithm: " : ""}${measure.label}${more}`;
    const said = [];
    if (strange) said.push(`${strange} values that are not finite are not drawn.`);
    const bursting = [...lines.keys()].filter((place) => Complexity.bursts(data, place, [state.measure, state.gap])).length;
    if (bursting) said.push(`${bursting} run${bursting > 1 ? "s" : ""} last seen at a hollow diamond went on to values that are not finite.`);
    if (atZero) said.push(`${atZero} points at or below 0 have no logarithm and are not drawn.`);
    if (!measure.is_log && !isLog && all.length) said.push("The axis is linear, since the measure reaches 0 or below.");
    if (!all.length) said.push("The two were never measured together.");
    parts.words.textContent = said.join(" ");
    const layout = Complexity.layout(root, {
      height: 460,
      uirevision: `${state.measure} ${state.gap}`,
      xaxis: { title: { text: Complexity.plain(title) }, type: isLog ? "log" : "linear" },
      yaxis: { title: { text: Complexity.plain(data.label(state.gap)) } },
    });
    return Complexity.draw(parts.chart, traces, layout);
  },
});

Complexity.positive = (line) => {
  const kept = line.x.map((_, i) => i).filter((i) => line.x[i] > 0);
  const take = (values) => kept.map((i) => values[i]);
  return { steps: take(line.steps), x: take(line.x), y: take(line.y) };
};

Complexity.trajectoryTraces = (one, { data, state, lines, fade }) => {
  const [runs, medians] = [state.lines !== "medians", state.lines !== "runs"];
  const bursts = (place) => Complexity.bursts(data, place, [state.measure, state.gap]);
  const whole = (place) => lines.get(place).x.length && !bursts(place);
  const groups = Complexity.repeated(data, one.runs).filter((places) => places.every(whole));
  const inGroup = new Set(groups.flat());
  const single = one.runs.filter((place) => lines.get(place).x.length && (runs || !inGroup.has(place)));
  const name = Complexity.plain(Complexity.shortened(one.name));
  const common = { name, showlegend: false, hovertemplate: "%{text}<extra></extra>" };
  const [path, starts, ends, fits] = [[], [], [], []].map(() => ({ x: [], y: [], text: [] }));
  const [errors, symbols] = [[], []];
  const at = (place, i) => {
    const line = lines.get(place);
    const text = `${Complexity.plain(Complexity.shortened(data.runs[place].name, 60))}<br>step ${line.steps[i]}<br>${Complexity.plain(data.label(state.measure))} ${Complexity.number(line.x[i])}<br>${Complexity.plain(data.label(state.gap))} ${Complexity.number(line.y[i])}`;
    return [line.x[i], line.y[i], text];
  };
  const put = (into, [x, y, text]) => {
    into.x.push(x);
    into.y.push(y);
    into.text.push(text);
  };
  for (const place of single) {
    const line = lines.get(place);
    line.x.forEach((_, i) => put(path, at(place, i)));
    put(path, [null, null, ""]);
    put(starts, at(place, 0));
    put(ends, at(place, line.x.length - 1));
    symbols.push(bursts(place) ? "diamond-open" : "circle");
    errors.push(Complexity.asOf(data.series(place, `${state.measure}/standard_error`), Infinity) ?? 0);
    const fitted = data.runs[place].fitted_step;
    const first = fitted === null ? -1 : line.steps.findIndex((step) => step >= fitted);
    if (first >= 0) put(fits, at(place, first));
  }
  const thin = medians && groups.length ? fade * 0.6 : fade;
  const traces = [
    { ...path, ...common, mode: "lines", line: { color: one.color, width: 1.2 }, opacity: thin, meta: "runs" },
    { ...starts, ...common, mode: "markers", marker: { color: one.color, symbol: "circle-open", size: 8 }, opacity: Math.max(fade, 0.35), meta: "starts" },
    { ...fits, ...common, mode: "markers", marker: { color: one.color, symbol: "x-thin", size: 8, line: { color: one.color, width: 2 } }, meta: "fitted" },
    { ...ends, ...common, mode: "markers", marker: { color: one.color, symbol: symbols, size: 8 }, opacity: Math.max(fade, 0.5), meta: "ends", error_x: { type: "data", array: errors, visible: errors.some(Boolean), thickness: 1 } },
  ];
  return medians && groups.length ? [...traces, ...Complexity.medianTraces(groups, { data, lines, color: one.color, common })] : traces;
};

Complexity.medianTraces = (groups, { data, lines, color, common }) => {
  const path = { x: [], y: [], text: [] };
  const [starts, ends] = [{ x: [], y: [], text: [] }, { x: [], y: [], text: [], ex: [], ey: [] }];
  for (const places of groups) {
    const own = places.map((place) => lines.get(place));
    const median = Complexity.medians(own);
    const name = `median of ${Complexity.repeats(data, places)}<br>${Complexity.plain(data.groups[data.runs[places[0]].group].name)}`;
    path.x.push(...median.x, null);
    path.y.push(...median.y, null);
    path.text.push(...median.x.map((_, i) => `${name}<br>${Math.round((100 * i) / (median.x.length - 1))} % of training`), "");
    starts.x.push(median.x[0]);
    starts.y.push(median.y[0]);
    starts.text.push(name);
    ends.x.push(median.x.at(-1));
    ends.y.push(median.y.at(-1));
    ends.text.push(name);
    const seeds = data.groups[data.runs[places[0]].group].seeds;
    const error = (axis) => Complexity.standardError(seeds.map((same) => Complexity.mean(same.map((place) => lines.get(place)[axis].at(-1)))));
    ends.ex.push(error("x"));
    ends.ey.push(error("y"));
  }
  const bar = (array) => ({ type: "data", array, visible: true, thickness: 1.5 });
  return [
    { ...path, ...common, mode: "lines", line: { color, width: 3 }, meta: "medians" },
    { ...starts, ...common, mode: "markers", marker: { color, symbol: "circle-open", size: 11, line: { width: 2 } }, meta: "median starts" },
    { ...common, x: ends.x, y: ends.y, text: ends.text, mode: "markers", marker: { color, size: 11 }, meta: "median ends", error_x: bar(ends.ex), error_y: bar(ends.ey) },
  ];
};

Complexity.mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;

// Of the mean; 0, so that no bar is drawn, for one value.
Complexity.standardError = (values) => {
  if (values.length < 2) return 0;
  const mean = Complexity.mean(values);
  const squares = values.reduce((sum, value) => sum + (value - mean) ** 2, 0);
  return Math.sqrt(squares / (values.length - 1) / values.length);
};
