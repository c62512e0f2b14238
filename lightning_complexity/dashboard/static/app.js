// render(root, data) draws everything; called again, with data that grew, it keeps what was chosen.
"use strict";

Complexity.states = new WeakMap();

Complexity.render = (root, raw) => {
  const data = new Complexity.Data(raw);
  const state = Complexity.stateOf(root);
  const legend = Complexity.element("div", { className: "classes" });
  root.classList.add("complexity");
  Complexity.renew(state.bar, ...Complexity.bar(data, state, legend));

  const sections = Complexity.sections.filter((one) => one.exists(data)).map((one) => ({ ...one, parts: (state.parts[one.id] ??= Complexity.section(one.id, one.title, one.help)) }));
  Complexity.place(root, [Complexity.findings(data), state.bar, ...sections.map((one) => one.parts.node)]);
  const visible = () => Complexity.classes(data, state).filter((one) => !one.isHidden);
  const drawOne = (section, classes) => {
    const own = (state[section.id] ??= {});
    const draw = (shown) => section.draw(data, own, shown, section.parts, root);
    const redraw = (change, again = true) => {
      Object.assign(own, change);
      Complexity.busy(root, () => (again ? drawOne(section, visible()) : draw(visible())));
    };
    Complexity.renew(section.parts.controls, ...section.controls(data, own, redraw));
    return draw(classes);
  };
  state.redraw = () =>
    Complexity.busy(root, async () => {
      Complexity.setTheme();
      const classes = visible();
      Complexity.fillLegend(legend, data, state);
      for (const section of sections) await drawOne(section, classes);
    });
  return state.redraw();
};

// Charts that were there stay, with what was zoomed into.
Complexity.place = (root, nodes) => {
  for (const old of [...root.children]) if (!nodes.includes(old)) old.remove();
  nodes.forEach((node, i) => node === root.children[i] || root.insertBefore(node, root.children[i] ?? null));
};

// What was chosen, for as long as there is the root; `redraw` is that of the data that are shown now.
Complexity.stateOf = (root) => {
  if (!Complexity.states.has(root)) {
    const state = { filter: "", hidden: new Set(), parts: {}, bar: Complexity.element("div", { className: "bar" }) };
    Complexity.states.set(root, state);
    globalThis.matchMedia?.("(prefers-color-scheme: dark)").addEventListener("change", () => root.isConnected && state.redraw());
    let waiting;
    state.later = () => {
      root.dataset.ready = "false";
      clearTimeout(waiting);
      waiting = setTimeout(() => state.redraw(), 150); // not at every letter
    };
  }
  return Complexity.states.get(root);
};

// `data-ready` of the root says whether everything is drawn.
Complexity.works = new WeakMap();
Complexity.busy = async (root, work) => {
  const change = (by) => Complexity.works.set(root, (Complexity.works.get(root) ?? 0) + by);
  change(1);
  root.dataset.ready = "false";
  try {
    await work();
  } finally {
    change(-1);
    if (!Complexity.works.get(root)) root.dataset.ready = "true";
  }
};

// By configuration while there are few; then by the setting with the fewest values.
Complexity.defaultColor = (data) => {
  if (data.groups.length <= 10) return "configuration";
  const values = (name) => [...new Set(data.runs.map((run) => run.settings[name]))];
  const setting = [...data.varied].sort((a, b) => values(a).length - values(b).length)[0];
  if (setting === undefined) return "none";
  const isScale = values(setting).every((value) => typeof value === "number");
  return isScale || values(setting).length <= 12 ? `.${setting}` : "none";
};

Complexity.findings = (data) => {
  const { element } = Complexity;
  const item = (finding) => {
    const number = finding.value === null ? "" : `${Complexity.number(finding.value)}${finding.standard_error === null ? "" : ` ± ${Complexity.number(finding.standard_error)}`}${finding.interval ? ` (${finding.interval.map(Complexity.number).join(" to ")})` : ""}`;
    const where = [finding.run, finding.step === null ? null : `step ${finding.step}`, number, `${Math.round(100 * finding.confidence)} % sure`].filter(Boolean).join(" · ");
    const next = finding.next_step ? element("p", { className: "next", textContent: `Try: ${finding.next_step}` }) : null;
    const evidence = finding.evidence ? element("p", { textContent: finding.evidence }) : null;
    return element("li", { className: finding.severity, dataset: { finding: finding.name } }, element("strong", { textContent: finding.headline }), element("span", { className: "where", textContent: where }), evidence, next);
  };
  // Of one kind the first three, at their places; the others, of as many runs, are opened at the third.
  const kinds = new Map();
  for (const finding of data.findings) {
    const kind = `${finding.severity} ${finding.name}`;
    kinds.set(kind, [...(kinds.get(kind) ?? []), finding]);
  }
  const items = data.findings.flatMap((finding) => {
    const alike = kinds.get(`${finding.severity} ${finding.name}`);
    const place = alike.indexOf(finding);
    if (place > 2) return [];
    const node = item(finding);
    const rest = place === 2 ? alike.slice(3) : [];
    if (rest.length) node.append(element("details", {}, element("summary", { textContent: `${rest.length} more like this` }), element("ol", {}, ...rest.map(item))));
    return [node];
  });
  const notes = data.notes.length ? element("details", { className: "notes" }, element("summary", { textContent: `${data.notes.length} note${data.notes.length > 1 ? "s" : ""} about what was read` }), element("ul", {}, ...data.notes.map((note) => element("li", { textContent: note })))) : null;
  return element("section", { id: "findings" }, element("h2", { textContent: "Findings" }), element("ol", {}, ...items), notes);
};

Complexity.bar = (data, state, legend) => {
  const { element } = Complexity;
  const colors = [["configuration", "configuration"], ["run", "run"], ...data.varied.map((name) => [`.${name}`, name]), ["none", "nothing"]];
  state.color = colors.some(([name]) => name === state.chosen) ? state.chosen : Complexity.defaultColor(data);
  const filter = element("input", { type: "search", value: state.filter, placeholder: "name", on: { input: () => Object.assign(state, { filter: filter.value }).later() } });
  const jump = Complexity.sections.filter((one) => one.exists(data)).map((one) => element("a", { href: `#${one.id}`, textContent: one.title }));
  return [element("nav", {}, ...jump), element("label", {}, element("span", { textContent: "runs with" }), filter), Complexity.choice("colour by", colors, state.color, (color) => Object.assign(state, { chosen: color, color, hidden: new Set() }).redraw()), legend];
};

// A click on an entry hides its runs, or shows them again.
Complexity.fillLegend = (node, data, state) => {
  const { element } = Complexity;
  const classes = Complexity.classes(data, state);
  const number = classes.filter((one) => !one.isHidden).reduce((sum, one) => sum + one.runs.length, 0);
  const toggle = (one) => {
    if (!state.hidden.delete(one.name)) state.hidden.add(one.name);
    state.redraw();
  };
  const entry = (one) => element("button", { type: "button", className: "entry", title: one.name, ariaPressed: String(!one.isHidden), on: { click: () => toggle(one) } }, element("i", { style: `background:${one.color}` }), element("span", { textContent: Complexity.shortened(one.name) }));
  const many = classes.length > 12;
  const isScale = many && classes.every((one) => one.isScale);
  const words = many && !isScale ? ` in ${classes.length} colours: colour by a setting, or filter, to tell them apart` : "";
  const ends = isScale ? [entry(classes[0]), element("span", { textContent: "to" }), entry(classes.at(-1))] : [];
  node.replaceChildren(element("span", { textContent: `${number} of ${data.runs.length} run${data.runs.length > 1 ? "s" : ""}${words}` }), ...(many ? ends : classes.map(entry)));
};
