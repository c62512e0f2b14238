// TensorBoard's frame imports this and calls render(): the report's page over what the server has read, again and again.
// All addresses are relative, so that they hold under a path prefix too.

const LEAST_WAIT = 10_000; // milliseconds from one look at the log directory to the next
const shown = { version: "", message: "", isStale: false, work: null };

export async function render() {
  const message = document.createElement("p");
  const root = document.createElement("main");
  message.id = "message";
  root.id = "report";
  message.style.padding = "8px 16px";
  for (const node of [message, root]) node.className = "complexity";
  document.body.append(message, root);
  say(message, "Reading runs …");
  await Promise.all([load("link", { rel: "stylesheet", href: "./static/style.css" }), load("script", { src: "./static/report.js" })]);
  followTheme(root);
  followLinks();
  const update = () => (shown.work ??= fetchAndDraw(message, root).finally(() => (shown.work = null)));
  listen("experimental.DataReloaded", () => reload(update));
  window.addEventListener("resize", () => shown.isStale && reload(update));
  document.addEventListener("visibilitychange", () => reload(update));
  await keepUp(update);
}

function load(tag, properties) {
  return new Promise((resolve, reject) => {
    const node = Object.assign(document.createElement(tag), properties, { onload: resolve, onerror: reject });
    document.head.append(node);
  });
}

// Other tabs of TensorBoard leave the frame no height, and those of the browser hide the whole page.
const isVisible = () => document.visibilityState === "visible" && innerHeight > 0;

// What cannot be seen is not drawn, and what was missed is made up for.
function reload(update) {
  shown.isStale = !isVisible();
  return shown.isStale ? Promise.resolve() : update();
}

// Three quarters of the time at least the server is left alone.
async function keepUp(update) {
  const start = performance.now();
  await reload(update);
  setTimeout(() => keepUp(update), Math.max(LEAST_WAIT, 3 * (performance.now() - start)));
}

async function fetchAndDraw(message, root) {
  try {
    const response = await fetch(`./data?have=${shown.version}`);
    const answer = await response.json();
    if (!response.ok) shown.message = answer.message;
    else if (answer.version !== shown.version) await draw(answer, root);
  } catch (error) {
    return say(message, `This could not be ${shown.version ? "brought up to date" : "drawn"}: ${error.message}`);
  }
  say(message, shown.message);
}

async function draw(answer, root) {
  Object.assign(shown, { version: answer.version, message: answer.message });
  root.hidden = !answer.page;
  if (answer.page) await Complexity.render(root, answer.page);
  root.dataset.version = answer.version;
}

function say(node, text) {
  node.textContent = text;
  node.hidden = !text;
}

// TensorBoard says whether it is dark by a class of its own document.
function followTheme(root) {
  try {
    const { body } = window.parent.document;
    Complexity.isDark = () => body.classList.contains("dark-mode");
    new MutationObserver(() => Complexity.states.get(root)?.redraw?.() ?? Complexity.setTheme()).observe(body, { attributeFilter: ["class"] });
  } catch {
    // A notebook may hold the frame in a page of another origin: the browser's own preference holds.
  }
  Complexity.setTheme();
}

// The frame's base is the folder of the tab's files, so that links into the page would leave it.
function followLinks() {
  document.addEventListener("click", (event) => {
    const link = event.target.closest?.("a[href^='#']");
    if (!link) return;
    event.preventDefault();
    document.getElementById(link.getAttribute("href").slice(1))?.scrollIntoView();
  });
}

// Messages of TensorBoard come through a channel that it is given; each is answered.
function listen(type, call) {
  const channel = new MessageChannel();
  channel.port1.onmessage = ({ data }) => {
    const message = JSON.parse(data);
    if (message.isReply) return;
    if (message.type === type) call();
    channel.port1.postMessage(JSON.stringify({ type: message.type, id: message.id, payload: null, error: null, isReply: true }));
  };
  window.parent.postMessage("experimental.bootstrap", "*", [channel.port2]);
}
