// Spectra, margins and pictures, one moment of training at a time.
"use strict";

Complexity.sections.push({
  id: "moments",
  title: "Spectra and pictures",
  help:
    "The slider goes over the steps at which the run has a distribution or a picture. What is shown is the last one at or before the step, with its own step beside it. They are read from TensorBoard's event files.",

  exists: (data) => data.histograms.length + data.pictures.length > 0,

  controls(data, state, redraw) {
    const all = [...data.histograms, ...data.pictures];
    const runs = [...new Set(all.map((one) => one.run))].sort((a, b) => a - b);
    state.run = runs.map(String).includes(String(state.run)) ? String(state.run) : String(runs[0]);
    const own = (series) => series.filter((one) => String(one.run) === state.run);
    const [histograms, pictures] = [own(data.histograms), own(data.pictures)];
    const isSpread = ({ edges }) => !edges || edges.at(-1) > edges[0];
    const pick = (name, series) => {
      const keys = series.map((one) => one.key);
      const first = series.find((one) => isSpread(one.moments.at(-1))); // rather than one of a single number
      state[name] = keys.includes(state[name]) ? state[name] : (first?.key ?? keys[0]);
      const options = keys.map((key) => [key, key.replace(/^(complexity|probe)\//, "")]);
      return keys.length ? [Complexity.choice(name, options, state[name], (key) => redraw({ [name]: key }))] : [];
    };
    const moments = [...histograms, ...pictures].filter((one) => [state.distribution, state.picture].includes(one.key) || !state.distribution);
    const runChoice = Complexity.choice("run", runs.map((run) => [String(run), Complexity.shortened(data.runs[run].name)]), state.run, (run) => redraw({ run }));
    const choices = [runChoice, ...pick("distribution", histograms), ...pick("picture", pictures)];
    const kept = [...histograms, ...pictures].filter((one) => [state.distribution, state.picture].includes(one.key));
    const steps = [...new Set((kept.length ? kept : moments).flatMap((one) => one.moments.map((moment) => moment.step)))].sort((a, b) => a - b);
    state.steps = steps;
    const nearest = steps.findLastIndex((step) => step <= (state.chosen ?? Infinity)); // the last one, as training goes
    state.step = steps[Math.max(nearest, 0)];
    const shown = Complexity.element("output", { textContent: `step ${state.step}` });
    const slide = () => {
      shown.textContent = `step ${steps[slider.value]}`;
      const step = steps[slider.value];
      redraw({ step, chosen: step === steps.at(-1) ? Infinity : step }, false);
    };
    const slider = Complexity.element("input", { type: "range", min: 0, max: steps.length - 1, step: 1, ariaLabel: "step", on: { input: slide } });
    slider.value = steps.indexOf(state.step);
    return [...choices, Complexity.element("label", { className: "slider" }, shown, slider)];
  },

  draw(data, state, classes, parts, root) {
    const { element } = Complexity;
    const own = (series, key) => series.find((one) => String(one.run) === state.run && one.key === key);
    const moment = (series) => series?.moments.findLast((one) => one.step <= state.step);
    if (!parts.bars) {
      parts.bars = element("div", { className: "histogram" });
      parts.picture = element("figure", {}, element("img", { alt: "" }), element("figcaption"));
      parts.chart.append(parts.bars, parts.picture);
      parts.chart.classList.add("moments");
    }
    const series = own(data.histograms, state.distribution);
    const pictures = own(data.pictures, state.picture);
    parts.bars.hidden = !series;
    parts.picture.hidden = !pictures;
    const picture = moment(pictures);
    const [image, caption] = parts.picture.children;
    image.hidden = !picture;
    if (picture) image.src = `data:image/png;base64,${picture.png}`;
    caption.textContent = picture ? `${state.picture}, step ${picture.step}` : "no picture yet";
    if (!series) return Promise.resolve();
    const found = moment(series);
    const { edges, counts } = found ?? { edges: [], counts: [] };
    const widths = counts.map((_, i) => edges[i + 1] - edges[i]);
    const all = series.moments.flatMap((one) => [one.edges[0], one.edges.at(-1)]);
    const [low, high] = [Math.min(...all), Math.max(...all)];
    const thin = 0.01 * (high - low) || undefined; // where all values are equal
    const bars = {
      type: "bar", x: counts.map((_, i) => (edges[i] + edges[i + 1]) / 2), y: counts.map((count, i) => (widths[i] > 0 ? count / widths[i] : count)), width: widths.map((width) => (width > 0 ? width : thin)),
      marker: { color: Complexity.palette()[0], line: { width: 0 } }, hovertemplate: "%{x:.4g}: %{y:.4g}<extra></extra>", meta: "distribution",
    };
    parts.words.textContent = found ? `Step ${found.step}.` : "Nothing yet at this step.";
    const layout = Complexity.layout(root, {
      height: 320,
      bargap: 0,
      xaxis: { title: { text: Complexity.plain(state.distribution.replace(/^(complexity|probe)\//, "")) }, range: [low - 0.02 * (high - low), high + 0.02 * (high - low)] },
      yaxis: { title: { text: widths.some((width) => width > 0) ? "values per unit" : "values" }, rangemode: "tozero" },
    });
    return Complexity.draw(parts.bars, [bars], layout);
  },
});
