// All runs, to sort, to filter and to take away.
"use strict";

Complexity.sections.push({
  id: "table",
  title: "Runs",
  help:
    "What was measured last in each run. A click on a head sorts; values that are not finite come last either way. The CSV has the rows that are shown, in their order, and all columns.",

  exists: () => true,

  controls(data, state, redraw) {
    const { element } = Complexity;
    const filter = element("input", { type: "search", value: state.words ?? "", placeholder: "width=16", on: { input: () => redraw({ words: filter.value }, false) } });
    const save = element("button", { type: "button", textContent: "save as CSV", className: "csv", on: { click: () => Complexity.save("runs.csv", Complexity.csv(Complexity.tableRows(data, state))) } });
    return [element("label", {}, element("span", { textContent: "rows with" }), filter), save];
  },

  draw(data, state, classes, parts) {
    const { element } = Complexity;
    state.shown = new Set(classes.flatMap((one) => one.runs));
    const { columns, rows } = Complexity.tableRows(data, state);
    const heads = columns.map((column) => {
      const sorted = state.sort === column.name ? (state.descending ? "descending" : "ascending") : "none";
      const click = () => Object.assign(state, { descending: state.sort === column.name ? !state.descending : column.isNumber, sort: column.name }) && redraw();
      return element("th", { scope: "col", "aria-sort": sorted }, element("button", { type: "button", textContent: column.label, title: column.name, on: { click } }));
    });
    const redraw = () => this.draw(data, state, classes, parts);
    const body = rows.map((row) => element("tr", {}, ...row.map((cell) => Complexity.cell(cell))));
    const table = element("table", {}, element("thead", {}, element("tr", {}, ...heads)), element("tbody", {}, ...body));
    parts.chart.classList.add("scrolled");
    parts.chart.replaceChildren(table);
    parts.words.textContent = rows.length === data.runs.length ? "" : `${rows.length} of ${data.runs.length} runs.`;
    return Promise.resolve();
  },
});

Complexity.isStrange = (cell) => ["Infinity", "-Infinity", "NaN"].includes(cell?.strange);

Complexity.cell = (cell) => {
  const { element } = Complexity;
  if (Complexity.isStrange(cell)) return element("td", { className: "number strange", textContent: Complexity.number(cell.strange) });
  if (typeof cell === "number") return element("td", { className: "number", textContent: Complexity.number(cell), title: String(cell) });
  return element("td", { textContent: cell === null || cell === undefined ? "–" : Complexity.shortened(cell, 60), title: String(cell ?? "") });
};

Complexity.tableRows = (data, state) => {
  const seeds = [...new Set(data.runs.flatMap((run) => Object.keys(run.settings)))].filter((name) => /(^|[._])seed([._]|$)/.test(name));
  const settings = [...data.varied, ...seeds].map((name) => ({ name: `setting ${name}`, label: name, of: (place) => data.runs[place].settings[name] }));
  const last = (key) => (place) => {
    const value = data.last(place, key);
    return typeof value === "string" ? { strange: value } : value;
  };
  const measured = [...data.byRole("probe"), ...data.byRole("complexity")].map((key) => ({ name: key, label: data.label(key), of: last(key) }));
  const columns = [
    { name: "run", label: "run", of: (place) => data.runs[place].name },
    ...settings,
    { name: "steps", label: "steps", of: (place) => data.runs[place].steps },
    { name: "fitted at step", label: "fitted at", of: (place) => data.runs[place].fitted_step },
    ...measured,
  ];
  const words = (state.words ?? "").toLowerCase().split(/\s+/).filter(Boolean);
  const places = data.runs.map((_, place) => place).filter((place) => {
    const run = data.runs[place];
    const text = `${run.name} ${Object.entries(run.settings).map(([name, value]) => `${name}=${value}`).join(" ")}`.toLowerCase();
    return (!state.shown || state.shown.has(place)) && words.every((word) => text.includes(word));
  });
  for (const column of columns) column.isNumber = places.some((place) => typeof column.of(place) === "number");
  const by = columns.find((column) => column.name === state.sort);
  if (by) places.sort((a, b) => Complexity.compare(by.of(a), by.of(b), state.descending));
  return { columns, rows: places.map((place) => columns.map((column) => column.of(place))) };
};

Complexity.compare = (a, b, descending) => {
  const missing = (cell) => cell === null || cell === undefined || Complexity.isStrange(cell);
  if (missing(a) || missing(b)) return missing(a) - missing(b);
  const order = typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b), undefined, { numeric: true });
  return descending ? -order : order;
};

// Spreadsheets run cells that begin like a formula.
Complexity.csv = ({ columns, rows }) => {
  const field = (cell) => {
    if (Complexity.isStrange(cell)) return cell.strange;
    if (cell === null || cell === undefined) return "";
    if (typeof cell === "number") return String(cell);
    const text = /^[=+\-@\t\r]/.test(cell) ? `'${cell}` : String(cell);
    return /[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  };
  return [columns.map((column) => field(column.name)), ...rows.map((row) => row.map(field))].map((row) => row.join(",")).join("\r\n");
};

Complexity.save = (name, text) => {
  const url = URL.createObjectURL(new Blob([text], { type: "text/csv" }));
  Complexity.element("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10000);
};
