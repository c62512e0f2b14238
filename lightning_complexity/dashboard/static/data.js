// What was measured, as charts ask for it: series of runs, joined by steps, and medians over seeds.
"use strict";

Complexity.Data = class {
  constructor(data) {
    Object.assign(this, data);
    this.keys = Object.keys(this.measures);
    this.byRole = (role) => this.keys.filter((key) => this.measures[key].role === role);
    this.found = new Map();
  }

  label(key) {
    return this.measures[key]?.label ?? key;
  }

  // Of one run: { steps, epochs, seconds, values }; finite values only, what they were otherwise in `strange`.
  series(place, key) {
    const name = `${place} ${key}`;
    if (!this.found.has(name)) this.found.set(name, this.readSeries(place, key));
    return this.found.get(name);
  }

  readSeries(place, key) {
    const table = this.runs[place].tables.find((one) => Object.hasOwn(one.columns, key));
    const series = { steps: [], epochs: [], seconds: [], values: [], strange: [] };
    if (!table) return series;
    const marks = new Map(table.not_finite[key] ?? []);
    const order = table.steps.map((_, i) => i).sort((a, b) => table.steps[a] - table.steps[b]);
    for (const i of order) {
      const moment = { step: table.steps[i], epoch: table.epochs[i], second: table.seconds[i] };
      if (Number.isFinite(table.columns[key][i])) {
        series.steps.push(moment.step);
        series.epochs.push(moment.epoch);
        series.seconds.push(moment.second);
        series.values.push(table.columns[key][i]);
      } else series.strange.push({ ...moment, name: marks.get(i) ?? "NaN" });
    }
    return series;
  }

  // The last value, or the name of what it was where it is not finite; undefined where nothing was measured.
  last(place, key) {
    const { steps, values, strange } = this.series(place, key);
    const odd = strange.at(-1);
    if (odd && (!steps.length || odd.step > steps.at(-1))) return odd.name;
    return values.at(-1);
  }

  // Pairs of two keys at the moments of the one that was measured less often.
  joined(place, first, second) {
    const [x, y] = [this.series(place, first), this.series(place, second)];
    const base = x.steps.length <= y.steps.length ? x : y;
    const points = { steps: [], x: [], y: [] };
    base.steps.forEach((step) => {
      const [one, other] = [Complexity.asOf(x, step), Complexity.asOf(y, step)];
      if (one === undefined || other === undefined) return;
      points.steps.push(step);
      points.x.push(one);
      points.y.push(other);
    });
    return points;
  }
};

// The value at a step or, if nothing was measured then, the one before.
Complexity.asOf = (series, step) => {
  let [low, high] = [0, series.steps.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (series.steps[middle] <= step) low = middle + 1;
    else high = middle;
  }
  return low ? series.values[low - 1] : undefined;
};

Complexity.quantile = (values, share) => {
  const sorted = [...values].sort((a, b) => a - b);
  const place = (sorted.length - 1) * share;
  const low = Math.floor(place);
  return sorted[low] + (sorted[Math.min(low + 1, sorted.length - 1)] - sorted[low]) * (place - low);
};

// Of several runs { steps, x, y }: the medians at equal shares of their training, and how far y spreads.
Complexity.medians = (lines, shares = 60) => {
  const found = { x: [], y: [], low: [], high: [], spread: lines.length < 4 ? "least to greatest" : "quartiles" };
  const ends = lines.length < 4 ? [0, 1] : [0.25, 0.75];
  for (let i = 0; i <= shares; i++) {
    const at = lines.map(({ steps, x, y }) => {
      const step = steps[0] + ((steps.at(-1) - steps[0]) * i) / shares;
      return { x: Complexity.asOf({ steps, values: x }, step), y: Complexity.asOf({ steps, values: y }, step) };
    });
    found.x.push(Complexity.quantile(at.map((point) => point.x), 0.5));
    found.y.push(Complexity.quantile(at.map((point) => point.y), 0.5));
    found.low.push(Complexity.quantile(at.map((point) => point.y), ends[0]));
    found.high.push(Complexity.quantile(at.map((point) => point.y), ends[1]));
  }
  return found;
};

// Which runs are shown, and the colour classes that they fall into: [{ name, color, runs }].
Complexity.classes = (data, state) => {
  const wanted = state.filter.toLowerCase().split(/\s+/).filter(Boolean);
  const shown = data.runs.map((_, place) => place).filter((place) => {
    const run = data.runs[place];
    const text = `${run.name} ${data.groups[run.group].name}`.toLowerCase();
    return wanted.every((word) => text.includes(word));
  });
  const valueOf = (place) => {
    const run = data.runs[place];
    if (state.color === "configuration") return run.group;
    if (state.color === "run") return place;
    return state.color === "none" ? "" : run.settings[state.color.slice(1)] ?? "none";
  };
  // Colours belong to values whether or not their runs are shown, so that they stay what they are.
  const all = [...new Set(data.runs.map((_, place) => valueOf(place)))];
  const isNumber = state.color.startsWith(".") && all.every((value) => typeof value === "number");
  if (isNumber) all.sort((a, b) => a - b);
  const palette = Complexity.palette();
  return all
    .map((value, i) => ({
      name: Complexity.className(data, state, value),
      isScale: isNumber,
      color: isNumber && all.length > 2 ? Complexity.shade(i / (all.length - 1)) : palette[i % palette.length],
      runs: shown.filter((place) => valueOf(place) === value),
    }))
    .filter((one) => one.runs.length)
    .map((one) => ({ ...one, isHidden: state.hidden.has(one.name) }));
};

Complexity.className = (data, state, value) => {
  if (state.color === "configuration") return data.groups[value].name;
  if (state.color === "run") return data.runs[value].name;
  return state.color === "none" ? "runs" : `${state.color.slice(1)}=${value}`;
};

// Whether a run goes on, but no longer in numbers.
Complexity.bursts = (data, place, keys) => keys.some((key) => typeof data.last(place, key) === "string");

// How many runs, and of how many seeds, for words.
Complexity.repeats = (data, places) => {
  const seeds = data.groups[data.runs[places[0]].group].seeds.length;
  return seeds === places.length ? `${seeds} seeds` : `${places.length} runs of ${seeds} seed${seeds > 1 ? "s" : ""}`;
};

// Runs of a class by group, those with several seeds.
Complexity.repeated = (data, runs) => {
  const groups = new Map();
  for (const place of runs) groups.set(data.runs[place].group, [...(groups.get(data.runs[place].group) ?? []), place]);
  return [...groups.values()].filter((places) => places.length > 1);
};

Complexity.fade = (number) => Math.max(0.12, Math.min(0.85, 9 / number));
