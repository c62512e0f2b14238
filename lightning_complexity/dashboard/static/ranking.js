// How measures order runs, against how their gaps do.
"use strict";

Complexity.sections.push({
  id: "ranking",
  title: "Which measures go with the gap",
  help:
    "Left: Kendall's rank correlation of each measure with the gap across runs; at 1 a greater measure always comes with a greater gap, at 0 they have nothing to do with each other. Right: the sign error, the share of pairs of runs that the measure orders against their gaps; one half is chance. Bars are 95 % intervals.",

  exists: () => true,

  controls(data, state, redraw) {
    const gaps = Object.keys(data.rankings.by_gap);
    state.gap = gaps.includes(state.gap) ? state.gap : gaps[0];
    return gaps.length ? [Complexity.choice("gap", gaps.map((key) => [key, data.label(key)]), state.gap, (gap) => redraw({ gap }))] : [];
  },

  draw(data, state, classes, parts, root) {
    const found = data.rankings.by_gap[state.gap];
    parts.words.textContent = [found?.method, ...data.rankings.notes].filter(Boolean).join(" ");
    parts.chart.hidden = !found;
    if (!found) return Promise.resolve();
    const rows = [...found.rows].reverse(); // Plotly's first category is at the bottom
    const known = rows.filter((row) => Number.isFinite(row.tau));
    const unknown = rows.length - known.length;
    if (unknown) parts.words.textContent += ` ${unknown} measures are constant or not finite and have no correlation.`;
    const labels = known.map((row) => Complexity.plain(Complexity.shortened(data.label(row.measure), 40)));
    const trace = (name, low, high, side) => ({
      x: known.map((row) => row[name]), y: labels, mode: "markers", meta: name, showlegend: false, cliponaxis: false,
      ...(side ? { xaxis: side } : {}), customdata: known.map((row) => row.measure),
      text: known.map((row) => `${Complexity.plain(data.label(row.measure))}, ${row.runs} runs<br>${Complexity.number(row[name])}${Number.isFinite(row[low]) ? `, 95 % from ${Complexity.number(row[low])} to ${Complexity.number(row[high])}` : ""}`),
      hovertemplate: "%{text}<extra></extra>",
      marker: { size: 9, color: Complexity.palette()[side ? 1 : 0] },
      error_x: { type: "data", symmetric: false, array: known.map((row) => (Number.isFinite(row[high]) ? row[high] - row[name] : 0)), arrayminus: known.map((row) => (Number.isFinite(row[low]) ? row[name] - row[low] : 0)), thickness: 1.2, width: 3 },
    });
    const narrow = Complexity.isNarrow(root);
    const layout = Complexity.layout(root, {
      height: 110 + 24 * known.length,
      xaxis: { title: { text: narrow ? "tau-b" : "rank correlation (tau-b)" }, range: [-1.05, 1.05], domain: [0, 0.58], zeroline: true, zerolinewidth: 2 },
      xaxis2: { title: { text: "sign error" }, range: [-0.03, 1.03], domain: [0.63, 1] },
      yaxis: { type: "category", categoryorder: "array", categoryarray: labels },
      shapes: [{ type: "line", xref: "x2", x0: 0.5, x1: 0.5, yref: "paper", y0: 0, y1: 1, line: { width: 1, dash: "dot", color: "#888888" } }],
    });
    return Complexity.draw(parts.chart, [trace("tau", "low", "high"), trace("sign_error", "sign_low", "sign_high", "x2")], layout);
  },
});
