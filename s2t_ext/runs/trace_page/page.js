"use strict";

const trace = JSON.parse(document.getElementById("trace").textContent);
const byId = (id) => document.getElementById(id);
const selection = { run: null, index: null };

/** An element with attributes and children; text is never read as markup. */
function element(name, attributes = {}, ...children) {
  const svg = ["svg", "rect", "line", "title"].includes(name);
  const node = svg
    ? document.createElementNS("http://www.w3.org/2000/svg", name)
    : document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined && value !== false) node.setAttribute(key, value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

const number = (value, digits = 2) => (Number.isFinite(value) ? value.toFixed(digits) : "–");
const percent = (part, whole) => (whole ? `${((100 * part) / whole).toFixed(1)} %` : "–");
const visible = (text) => text.replaceAll(" ", "␣").replaceAll("\n", "↵").replaceAll("\t", "⇥") || "∅";
/** A token as its candidate is written; in the running text it may have a space before it. */
const named = (step) => visible(step.candidates?.find((c) => c.id === step.token)?.text ?? step.text);
const ordinary = (step) => step.candidates?.find((c) => c.id === step.ordinary) ?? step.candidates?.[0];

/** Index of the first token in which two runs differ, or null. */
function firstDifference(first, second) {
  const length = Math.min(first.steps.length, second.steps.length);
  for (let i = 0; i < length; i++) if (first.steps[i].token !== second.steps[i].token) return i;
  return first.steps.length === second.steps.length ? null : length;
}

// ---------------------------------------------------------------- head

function drawHeader() {
  const settings = element("dl", { class: "settings" });
  for (const [name, value] of Object.entries(trace.settings ?? {})) {
    if (value === null || value === "") continue;
    settings.append(element("div", {}, element("dt", {}, name), element("dd", {}, String(value))));
  }
  byId("header").append(
    element("h1", {}, trace.title ?? "Select to Think, step by step"),
    element("p", { class: "prompt", tabindex: "0", "aria-label": "Prompt" }, trace.prompt ?? ""),
    settings,
    element("div", { class: "scroll" }, totals()),
  );
  document.title = trace.title ?? document.title;
}

function totals() {
  const columns = ["", "tokens", "choices", "changed", "student passes"];
  const withTeacher = trace.runs.some((run) => run.summary?.teacher_forward_passes > 0);
  if (withTeacher) columns.push("teacher passes");
  const head = columns.map((c, i) => element("th", { scope: "col", class: i ? "number" : null }, c));
  const rows = trace.runs.map((run) => {
    const steps = run.steps.length;
    const choices = run.steps.filter((s) => s.triggered).length;
    const changed = run.steps.filter((s) => s.changed).length;
    const cells = [
      steps,
      `${choices} (${percent(choices, steps)})`,
      `${changed} (${percent(changed, steps)})`,
      run.summary?.forward_passes ?? "–",
    ];
    if (withTeacher) cells.push(run.summary?.teacher_forward_passes ?? "–");
    return element("tr", {}, element("th", { scope: "row" }, run.name),
      ...cells.map((cell) => element("td", { class: "number" }, String(cell))));
  });
  return element("table", { id: "totals" }, element("caption", {}, "Totals"),
    element("thead", {}, element("tr", {}, ...head)), element("tbody", {}, ...rows));
}

// ---------------------------------------------------------------- text and strip of one run

/** Of all runs, so that their strips and shades can be compared. */
const most = Math.max(1, ...trace.runs.flatMap((run) => run.steps.map((s) => s.entropy ?? 0)));

function drawRun(run, r) {
  const text = element("p", { class: "text", role: "group", "aria-label": `Text of ${run.name}` });
  const fork = trace.runs.length > 1 ? firstDifference(trace.runs[0], trace.runs[1]) : null;
  run.tokens = run.steps.map((step, i) => token(r, step, i, r < 2 && i === fork));
  // Spaces stay outside: a token is not shaded across a line's end.
  run.steps.forEach((step, i) => text.append(spaceBefore(step), run.tokens[i]));
  const first = run.steps.findIndex((s) => s.triggered);
  const reachable = run.tokens[Math.max(first, 0)];
  if (reachable?.hasAttribute("role")) reachable.tabIndex = 0;
  const note = r < 2 && fork !== null
    ? element("p", { class: "fork-note" }, `▏first difference at step ${fork}`)
    : null;
  byId("runs").append(element("section", { class: "run", "aria-label": run.name },
    element("h2", {}, run.name), note, text, strip(run, r), thresholdControl(run)));
}

const spaceBefore = (step) => (step.special ? " " : step.text.trim() ? step.text.match(/^\s*/)[0] : "");

/** The words of a token; of a token that is only space, the space, marked where a choice was made. */
function shownText(step) {
  const word = step.special ? step.text.trim() : step.text.trimStart();
  if (word) return word;
  return step.triggered || !step.text ? visible(step.text) + step.text : step.text;
}

function token(r, step, i, isFork) {
  const classes = ["token"];
  if (step.triggered) classes.push("triggered");
  if (step.changed) classes.push("changed");
  if (step.special) classes.push("special");
  if (isFork) classes.push("fork");
  const opens = Boolean(step.candidates?.length);
  const shade = step.changed ? null : `--shade: ${(0.55 * (step.entropy ?? 0)) / most}`;
  const node = element("span", {
    class: classes.join(" "), style: shade, "data-run": r, "data-step": i,
    role: opens ? "button" : null, tabindex: opens ? "-1" : null, "aria-label": opens ? spoken(step) : null,
  }, shownText(step));
  if (opens) node.addEventListener("click", () => select(r, i));
  return node;
}

/** What a screen reader says of a token. */
function spoken(step) {
  const said = [step.text.trim() || named(step), `step ${step.step}`];
  if (step.changed) said.push(`changed, instead of ${ordinary(step)?.text ?? "another token"}`);
  else if (step.triggered) said.push("a choice was made and kept it");
  said.push(`entropy ${number(step.entropy)}`);
  return said.join(", ");
}

function strip(run, r) {
  const count = run.steps.length || 1;
  const svg = element("svg", {
    class: "strip", viewBox: `0 0 ${count} 1`, preserveAspectRatio: "none", role: "img",
    "aria-label": `Entropy at each of ${run.steps.length} steps, at most ${number(most)} nats`,
  });
  run.bars = run.steps.map((step, i) => {
    const height = Math.max(0.01, (step.entropy ?? 0) / most);
    const bar = element("rect", {
      x: i + 0.1, y: 1 - height, width: 0.8, height,
      class: step.changed ? "is-changed" : step.triggered ? "is-triggered" : null,
    }, element("title", {}, `step ${step.step}: ${named(step)}, ${number(step.entropy)} nats`));
    return bar;
  });
  svg.append(...run.bars);
  run.line = element("line", { x1: 0, x2: count, y1: 0, y2: 0 });
  if (showsThreshold()) {
    svg.append(run.line);
    placeLine(run, trace.threshold);
  }
  svg.addEventListener("click", (event) => {
    const box = svg.getBoundingClientRect();
    const i = Math.min(count - 1, Math.floor((count * (event.clientX - box.left)) / box.width));
    if (run.steps[i]?.candidates?.length) select(r, i);
  });
  return element("figure", {}, svg,
    element("figcaption", {}, `entropy of the student along the text, 0 to ${number(most)} nats`));
}

const showsThreshold = () => trace.trigger === "entropy" && Number.isFinite(trace.threshold);

function placeLine(run, threshold) {
  const y = 1 - Math.min(1, Math.max(0, threshold / most));
  run.line.setAttribute("y1", y);
  run.line.setAttribute("y2", y);
}

/** A slider that counts the choices another threshold would have asked for. */
function thresholdControl(run) {
  if (!showsThreshold() || !run.steps.some((s) => s.triggered)) return null;
  const output = element("output", {});
  const slider = element("input", {
    type: "range", min: 0, max: most, step: most / 200, value: trace.threshold,
    "aria-label": "Try another entropy threshold",
  });
  const update = () => {
    const value = Number(slider.value);
    const fired = run.steps.filter((s) => s.entropy > value).length;
    output.textContent = `above ${number(value)} nats: ${fired} of ${run.steps.length} steps (${percent(fired, run.steps.length)})`;
    placeLine(run, value);
  };
  slider.addEventListener("input", update);
  update();
  return element("div", { class: "threshold" }, element("span", {}, "threshold"), slider, output);
}

// ---------------------------------------------------------------- candidates of one step

function select(r, i) {
  unselect();
  const run = trace.runs[r];
  Object.assign(selection, { run: r, index: i });
  run.tokens.forEach((node) => node.hasAttribute("role") && (node.tabIndex = -1));
  run.tokens[i].tabIndex = 0;
  run.tokens[i].classList.add("selected");
  run.tokens[i].setAttribute("aria-pressed", "true");
  run.bars[i].classList.add("is-selected");
  drawDetails(run, run.steps[i]);
}

function unselect() {
  const run = trace.runs[selection.run];
  run?.tokens[selection.index]?.classList.remove("selected");
  run?.tokens[selection.index]?.removeAttribute("aria-pressed");
  run?.bars[selection.index]?.classList.remove("is-selected");
  Object.assign(selection, { run: null, index: null });
  byId("details").hidden = true;
}

function drawDetails(run, step) {
  const panel = byId("details");
  const before = ordinary(step);
  const title = step.changed
    ? `Step ${step.step}: ${named(step)} instead of ${visible(before?.text ?? "")}`
    : `Step ${step.step}: ${named(step)}`;
  panel.replaceChildren(
    element("h3", {}, title),
    element("p", { class: "soft" }, reason(step)),
    element("div", { class: "scroll" }, candidates(step)),
    element("nav", { "aria-label": "Other choices" }, jump(-1, "Previous choice"), jump(1, "Next choice"), closeButton()),
  );
  panel.hidden = false;
}

/** Why a choice was made here, or not. */
function reason(step) {
  const said = `entropy ${number(step.entropy)} nats`;
  if (!step.triggered) return `${said}; no choice was asked for.`;
  if (showsThreshold()) return `${said}, above ${number(trace.threshold)}: a choice was made.`;
  const statistic = Number.isFinite(step.statistic) ? ` (${trace.trigger} ${number(step.statistic)})` : "";
  return `${said}; a choice was made${statistic}.`;
}

function candidates(step) {
  const withScore = step.candidates.some((c) => Number.isFinite(c.score));
  const withTeacher = step.candidates.some((c) => Number.isFinite(c.teacher));
  const scores = step.candidates.map((c) => c.score).filter(Number.isFinite);
  const [low, high] = [Math.min(...scores, 0), Math.max(...scores, 0.001)];
  const head = ["candidate", "student's probability"];
  if (withScore) head.push("score");
  if (withTeacher) head.push("teacher's probability");
  head.push("");
  const favourite = withTeacher ? step.candidates.reduce((a, b) => ((b.teacher ?? -Infinity) > (a.teacher ?? -Infinity) ? b : a)) : null;
  const rows = step.candidates.map((c) => {
    const isChosen = c.id === step.token;
    const isDisplaced = step.changed && c.id === ordinary(step)?.id;
    const probability = Number.isFinite(c.logprob) ? Math.exp(c.logprob) : NaN;
    const cells = [
      element("td", {}, element("span", { class: "candidate" }, visible(c.text))),
      element("td", {}, meter(probability), element("span", {}, number(probability, 3))),
    ];
    if (withScore) cells.push(element("td", {}, meter((c.score - low) / (high - low), "score"), element("span", {}, number(c.score))));
    if (withTeacher) cells.push(element("td", {}, meter(Math.exp(c.teacher)), element("span", {}, number(Math.exp(c.teacher), 3))));
    const marks = [isChosen && "✓ taken", isDisplaced && "displaced", c === favourite && "★ teacher's"].filter(Boolean);
    cells.push(element("td", { class: "mark" }, marks.join(", ")));
    return element("tr", { class: isChosen ? "chosen" : isDisplaced ? "displaced" : null }, ...cells);
  });
  return element("table", { id: "candidates" },
    element("thead", {}, element("tr", {}, ...head.map((h) => element("th", { scope: "col" }, h)))),
    element("tbody", {}, ...rows));
}

function meter(share, kind = "") {
  if (!Number.isFinite(share)) return null;
  const width = Math.min(100, Math.max(0, 100 * share));
  return element("span", { class: `meter ${kind}`, "aria-hidden": "true" }, element("span", { style: `width: ${width}%` }));
}

function nextChoice(direction) {
  const { run: r, index } = selection;
  const steps = trace.runs[r]?.steps ?? [];
  for (let i = index + direction; i >= 0 && i < steps.length; i += direction) {
    if (steps[i].triggered && steps[i].candidates?.length) return i;
  }
  return null;
}

function jump(direction, label) {
  const target = nextChoice(direction);
  const button = element("button", { type: "button" }, label);
  button.disabled = target === null;
  button.addEventListener("click", () => go(selection.run, target));
  return button;
}

function closeButton() {
  const button = element("button", { type: "button" }, "Close");
  button.addEventListener("click", close);
  return button;
}

function go(r, i) {
  select(r, i);
  trace.runs[r].tokens[i].focus();
}

function close() {
  const node = trace.runs[selection.run]?.tokens[selection.index];
  unselect();
  node?.focus();
}

// ---------------------------------------------------------------- keys

function neighbour(r, i, direction) {
  const tokens = trace.runs[r].tokens;
  for (let j = i + direction; j >= 0 && j < tokens.length; j += direction) {
    if (tokens[j].hasAttribute("role")) return tokens[j];
  }
  return null;
}

function onKey(event) {
  if (event.ctrlKey || event.altKey || event.metaKey) return;
  if (event.key === "Escape" && selection.run !== null) return close();
  const node = event.target.closest?.(".token[role]");
  if (!node) return;
  const [r, i] = [Number(node.dataset.run), Number(node.dataset.step)];
  const moves = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: 1, ArrowUp: -1 };
  if (event.key in moves) neighbour(r, i, moves[event.key])?.focus();
  else if (event.key === "Enter" || event.key === " ") select(r, i);
  else if (event.key.toLowerCase() === "n" || event.key.toLowerCase() === "p") {
    Object.assign(selection, selection.run === null ? { run: r, index: i } : {});
    const target = nextChoice(event.key.toLowerCase() === "n" ? 1 : -1);
    if (target !== null) go(selection.run, target);
  } else return;
  event.preventDefault();
}

// ---------------------------------------------------------------- changes and foot

function drawChanges() {
  const rows = trace.runs.flatMap((run) => run.steps.filter((s) => s.changed).map((step) => {
    const before = ordinary(step);
    return element("tr", {}, element("td", {}, run.name), element("td", { class: "number" }, String(step.step)),
      element("td", {}, element("s", { class: "candidate" }, visible(before?.text ?? ""))),
      element("td", {}, element("span", { class: "candidate" }, named(step))),
      element("td", { class: "number" }, number(step.entropy)));
  }));
  if (!rows.length) return;
  const head = ["decoding", "step", "instead of", "taken", "entropy"];
  byId("changes").append(element("h2", {}, "Every change"), element("div", { class: "scroll" },
    element("table", {}, element("thead", {}, element("tr", {}, ...head.map((h) => element("th", { scope: "col" }, h)))),
      element("tbody", {}, ...rows))));
}

function drawFooter() {
  const versions = Object.entries(trace.versions ?? {}).map(([name, version]) => `${name} ${version}`).join(", ");
  if (trace.command) byId("footer").append(element("p", {}, element("code", {}, trace.command)));
  byId("footer").append(element("p", {}, versions));
}

drawHeader();
byId("runs").classList.toggle("two", trace.runs.length > 1);
trace.runs.forEach(drawRun);
drawChanges();
drawFooter();
unselect();
document.addEventListener("keydown", onKey);
const firstChange = trace.runs.map((run, r) => [r, run.steps.findIndex((s) => s.changed && s.candidates?.length)]).find(([, i]) => i >= 0);
// On a narrow screen the panel would lie over the text.
if (firstChange && matchMedia("(min-width: 62rem)").matches) select(...firstChange);
