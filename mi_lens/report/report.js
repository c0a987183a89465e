"use strict";
const parse = (id) => JSON.parse($(id).textContent);
const page = parse("data");

/** An element with a class and text; text is never markup. */
function make(tag, className = "", text = "") {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text) element.textContent = text;
  return element;
}

/** A step's address on this page. */
const address = (name, step) => `#trace=${name}&step=${step}`;

(() => {
  // Tables of one layer at a time.
  for (const select of document.querySelectorAll("select.panels")) {
    select.addEventListener("change", () => {
      const panels = select.closest("section").querySelectorAll(".panel");
      panels.forEach((panel, i) => { panel.hidden = i !== select.selectedIndex; });
    });
  }

  if (page.index.length) viewer();

  function viewer() {
    const LETTERS = { execution: "E", reflection: "R", transition: "T" };
    let trace, spans = [], classes = [], boxed = new Set(), at = 0, layer = 0, measure = "raw";
    let shownIndex = 0, asked = false; // asked: whether anybody has chosen a trace or a step yet
    const map = layerMap(pickCell, turnMeasure);
    let cursor = null, toX = () => 0, toStep = () => 0;

    const hook = () => trace.hooks[layer];
    const inSpecific = () => measure === "specific" && Boolean(hook()?.specific);
    const shown = () => (inSpecific() ? hook().specific.values : hook()?.mi);
    const edges = () => (inSpecific() ? hook().specific.edges : hook().edges);
    const rawPeaks = () => hook()?.peaks ?? [];
    const ownPeaks = () => hook()?.specific?.peaks ?? [];
    const shade = (value) => edges().reduce((i, edge) => i + Number(value >= edge), 0);
    const wordOf = (token) => token.toLowerCase().replace(/^[^\p{L}\p{N}]+|[^\p{L}\p{N}]+$/gu, "");
    const blockOf = (step) => trace.blocks.findLastIndex(([start]) => start <= step);

    // The traces to pick from.
    page.index.forEach((entry, i) => {
      let group = $("pick").lastElementChild;
      if (!group || group.label !== entry.run) {
        group = make("optgroup");
        group.label = entry.run;
        $("pick").append(group);
      }
      const verdict = entry.correct === null ? [] : [entry.correct ? "right" : "wrong"];
      const parts = [entry.question, ...(entry.condition ? [entry.condition] : []), ...verdict, `${entry.steps} steps`];
      const option = make("option", "", `${group.children.length + 1}. ${parts.join(" · ")}`);
      option.value = i;
      group.append(option);
    });
    $("words").value = page.words.join(" ");

    function show(index, step = 0) {
      shownIndex = Number(index);
      $("pick").value = index;
      trace = unpackedTrace(parse(`trace-${index}`));
      const names = trace.hooks.map(({ name }) => name);
      const before = $("layer").value;
      $("layer").replaceChildren(...names.map((name) => make("option", "", name)));
      layer = Math.max(0, names.indexOf(before));
      $("layer").selectedIndex = names.length ? layer : -1;
      for (const control of [$("layer").parentNode, $("measure")]) control.hidden = names.length === 0;
      describe();
      build();
      paint();
      draw();
      $("text").scrollTop = 0;
      go(step, step > 0);
    }

    function describe() {
      const about = $("about");
      about.replaceChildren(document.createTextNode(trace.question));
      const add = (label, value, className = "") => {
        if (value === null || value === "") return;
        about.append(` ${label} `, make("span", className, String(value)), ".");
      };
      add("Gold answer:", trace.gold);
      add("Model’s answer:", trace.answer);
      add("Graded", trace.correct === null ? null : trace.correct ? "right" : "wrong", "verdict");
      add("Condition:", trace.condition);
      add("Seed:", trace.seed);
      add("Stop reason:", trace.stop);
      if (!trace.hooks.length) about.append(" No states were captured for this trace, so there is no MI to show.");
    }

    /** The text: one block per thought, one span per token. */
    function build() {
      spans = [];
      const all = document.createDocumentFragment();
      trace.blocks.forEach(([start, kind], i) => {
        const stop = trace.blocks[i + 1]?.[0] ?? trace.tokens.length;
        const block = make("div", `thought ${kind ?? "none"}`);
        block.dataset.letter = LETTERS[kind] ?? "";
        for (let step = start; step < stop; step++) {
          const span = make("span");
          const text = trace.tokens[step].replace(/\n+/g, (breaks) => "↵".repeat(breaks.length) + "\n");
          span.textContent = step === stop - 1 ? text.replace(/\n$/, "") : text;
          span.step = step;
          spans.push(span);
          block.append(span);
        }
        all.append(block);
      });
      $("text").replaceChildren(all);
    }

    /** Colours and marks at the chosen layer and measure. */
    function paint() {
      const values = shown();
      const peaks = new Set(rawPeaks()), own = new Set(ownPeaks());
      const events = new Set(trace.events.map(([step]) => step));
      const lifted = new Set((page.runs[trace.run].words[hook()?.name] ?? []).map(wordOf));
      const prefix = inSpecific() ? "d" : "h";
      classes = trace.tokens.map((token, step) => {
        const word = wordOf(token);
        return "t" + (values ? ` ${prefix}${shade(values[step])}` : "") + (peaks.has(step) ? " peak" : "")
          + (own.has(step) ? " specific" : "") + (word && lifted.has(word) ? " found" : word && boxed.has(word) ? " word" : "")
          + (events.has(step) ? " event" : "");
      });
      spans.forEach((span, step) => { span.className = classes[step]; });
      legend();
      const radio = $("measure").querySelector("[value=specific]");
      radio.disabled = !hook()?.specific;
      $("measure").querySelector(`[value=${inSpecific() ? "specific" : "raw"}]`).checked = true;
      if (spans[at]) spans[at].classList.add("now");
      map(trace, at, layer, inSpecific());
    }

    function legend() {
      if (!hook()) {
        $("scale").replaceChildren();
        return;
      }
      const prefix = inSpecific() ? "d" : "h";
      const list = make("ol");
      for (let i = 0; i < page.shades; i++) {
        const edge = String(Number(edges()[Math.max(0, i - 1)].toPrecision(3)));
        const text = i === 0 ? `< ${edge}` : i === page.shades - 1 ? `≥ ${edge}` : edge;
        list.append(make("li", `${prefix}${i}`, text));
      }
      const title = inSpecific()
        ? `specific part, in standard deviations of ${hook().specific.others} other answers; each shade starts at`
        : "raw MI; each shade starts at";
      $("scale").replaceChildren(make("span", "", title), list);
      $("scale").setAttribute("aria-label", `Colour scale, ${title} ${edges().join(", ")}`);
    }

    // The trajectory.
    function svg(tag, attributes, parent, text = "") {
      const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
      for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
      element.textContent = text;
      parent.append(element);
      return element;
    }

    /** The panels of the plot that this trace has numbers for: name to height in pixels. */
    function panels() {
      const found = new Map();
      if (hook()) found.set("mi", 120);
      if (trace.belief) found.set("belief", 56);
      if (hook() && trace.entropy && (trace.belief || trace.effects.length)) found.set("entropy", 44);
      if (trace.effects.length) found.set("effects", 52);
      return found;
    }

    function draw() {
      const plot = $("plot"), n = trace.tokens.length;
      const width = Math.max(240, plot.clientWidth), left = 52, right = 10, gap = 14, lanes = 40;
      const shownPanels = panels();
      const height = 10 + [...shownPanels.values()].reduce((sum, own) => sum + own + gap, 0) + lanes + 27;
      const root = svg("svg", { viewBox: `0 0 ${width} ${height}`, "aria-hidden": "true" }, make("div"));
      toX = (step) => left + ((step + 0.5) / n) * (width - left - right);
      toStep = (x) => Math.min(n - 1, Math.max(0, Math.floor(((x - left) / (width - left - right)) * n)));
      let top = 10;
      const drawn = { mi: drawMi, belief: drawBelief, entropy: drawEntropy, effects: drawEffects };
      for (const [name, own] of shownPanels) {
        drawn[name]({ root, left, right: width - right, top, bottom: top + own });
        top += own + gap;
      }
      ["execution", "reflection", "transition"].forEach((kind, row) => {
        const y = top - 4 + row * 12;
        svg("text", { class: "letter", x: left - 6, y: y + 8, "text-anchor": "end" }, root, LETTERS[kind]);
        const bars = trace.blocks.map(([start, own], i) => own !== kind ? "" :
          `M${(toX(start - 0.5)).toFixed(1)} ${y}H${toX((trace.blocks[i + 1]?.[0] ?? n) - 0.5).toFixed(1)}v7H${toX(start - 0.5).toFixed(1)}Z`);
        svg("path", { class: `lane ${kind}`, d: bars.join("") }, root);
      });
      for (const tick of ticks(0, n - 1)) {
        if (Number.isInteger(tick)) svg("text", { x: toX(tick), y: height - 6, "text-anchor": "middle" }, root, tick === 0 ? "step 0" : String(tick));
      }
      const settled = trace.belief?.settled ?? null;
      if (settled !== null) {
        svg("line", { class: "settled", x1: toX(settled - 0.5), x2: toX(settled - 0.5), y1: 4, y2: height - 22 }, root);
      }
      cursor = svg("line", { class: "cursor", y1: 4, y2: height - 22 }, root);
      plot.replaceChildren(root);
      plot.setAttribute("aria-valuemax", String(n - 1));
      placeCursor();
    }

    /** The scale of a panel, with its marks at the left. */
    function scale(place, least, most, marks) {
      const toY = (value) => place.bottom - ((value - least) / (most - least || 1)) * (place.bottom - place.top);
      for (const mark of marks) {
        svg("line", { class: "axis", x1: place.left, x2: place.right, y1: toY(mark), y2: toY(mark) }, place.root);
        svg("text", { x: place.left - 6, y: toY(mark) + 4, "text-anchor": "end" }, place.root, String(mark));
      }
      return toY;
    }

    /** The name of a panel, above its upper left corner. */
    function name(place, text) {
      svg("text", { x: place.left + 3, y: place.top - 4 }, place.root, text);
    }

    const circles = (points, r) => points.map(([x, y]) =>
      `M${(x - r).toFixed(1)} ${y.toFixed(1)}a${r} ${r} 0 1 0 ${2 * r} 0a${r} ${r} 0 1 0 ${-2 * r} 0`).join("");

    function drawMi(place) {
      const values = shown(), own = hook().specific;
      const spread = (sign) => own.mean.map((mean, i) => mean + sign * 1.96 * own.std[i]);
      const [low, high] = !own ? [null, null] : inSpecific() ? [values.map(() => -1.96), values.map(() => 1.96)] : [spread(-1), spread(1)];
      const extent = (rows, pick) => rows.reduce((best, row) => row.reduce((a, b) => pick(a, b), best), values[0]);
      const most = extent([values, high ?? []], Math.max), least = extent([values, low ?? []], Math.min);
      const toY = scale(place, least, most > least ? most : least + 1, ticks(least, most));
      if (low) {
        const path = line(high, toY, Math.max) + line(low, toY, Math.min, true).replace("M", "L") + "Z";
        svg("path", { class: "band", d: path }, place.root);
      }
      svg("path", { class: "curve", d: line(values, toY) }, place.root);
      const threshold = toY(inSpecific() ? own.threshold : hook().threshold);
      svg("line", { class: "threshold", x1: place.left, x2: place.right, y1: threshold, y2: threshold }, place.root);
      const at = (steps) => steps.map((step) => [toX(step), toY(values[step])]);
      svg("path", { class: "dots", d: circles(at(rawPeaks()), 2.6) }, place.root);
      svg("path", { class: "rings", d: circles(at(ownPeaks()), 5) }, place.root);
    }

    function drawBelief(place) {
      const toY = scale(place, 0, 1, [0, 1]);
      for (const { name: answer, values } of trace.belief.lines) {
        const points = trace.belief.cuts.map((cut, i) => [toX(cut - 0.5), toY(values[i])]);
        const kind = answer.replaceAll(" ", "-");
        svg("path", { class: `belief ${kind}`, d: "M" + points.map(([x, y]) => `${x.toFixed(1)} ${y.toFixed(1)}`).join("L") }, place.root);
        svg("path", { class: `asked ${kind}`, d: circles(points, 2.2) }, place.root);
      }
      name(place, `belief: ${trace.belief.lines.map(({ name: answer, answer: text }) => `${answer} ${text.slice(0, 20)}`).join(", ")}`);
    }

    function drawEntropy(place) {
      const most = trace.entropy.reduce((a, b) => Math.max(a, b), 0);
      const toY = scale(place, 0, most || 1, [0]);
      svg("path", { class: "entropy", d: line(trace.entropy, toY) }, place.root);
      name(place, `entropy, up to ${Number(most.toPrecision(3))} bits`);
    }

    function drawEffects(place) {
      const toY = scale(place, -1, 1, [-1, 0, 1]);
      for (const [start, stop, effect, low, high] of trace.effects) {
        const kind = stop - start === 1 ? "of-token" : "of-thought";
        const from = toX(start - 0.5), to = toX(stop - 0.5), middle = (from + to) / 2;
        if (low !== null) svg("path", { class: `interval ${kind}`, d: `M${middle.toFixed(1)} ${toY(low).toFixed(1)}V${toY(high).toFixed(1)}` }, place.root);
        if (kind === "of-token") svg("path", { class: `mark ${kind}`, d: circles([[middle, toY(effect)]], 2.6) }, place.root);
        else svg("path", { class: `interval bar ${kind}`, d: `M${from.toFixed(1)} ${toY(effect).toFixed(1)}H${to.toFixed(1)}` }, place.root);
      }
      name(place, "right with it, less without");
    }

    /** A path through all values; several at one pixel are drawn as first, lowest, highest, last. */
    function line(values, toY, pick = null, backwards = false) {
      const columns = new Map();
      values.forEach((value, step) => {
        const x = Math.round(toX(step) * 2) / 2;
        const column = columns.get(x);
        if (!column) columns.set(x, [value, value, value, value]); // first, lowest, highest, last
        else columns.set(x, [column[0], Math.min(column[1], value), Math.max(column[2], value), value]);
      });
      let parts = [...columns].map(([x, [first, low, high, last]]) => {
        const chosen = pick ? [pick(low, high)] : low === high ? [low] : [first, low, high, last];
        return chosen.map((value) => `${x} ${toY(value).toFixed(1)}`).join("L");
      });
      if (backwards) parts = parts.reverse();
      return "M" + parts.join("L");
    }

    function ticks(low, high) {
      const rough = (high - low) / 4 || 1, power = 10 ** Math.floor(Math.log10(rough));
      const step = [1, 2, 2.5, 5, 10].map((m) => m * power).find((candidate) => candidate >= rough);
      const marks = [];
      for (let i = Math.ceil(low / step); i * step <= high + 1e-12; i++) marks.push(Number((i * step).toPrecision(6)));
      return marks;
    }

    // The current step.
    function placeCursor() {
      cursor.setAttribute("x1", toX(at));
      cursor.setAttribute("x2", toX(at));
    }

    /** Belief in each answer where the model was last asked before a step. */
    function believed(step) {
      const asked = trace.belief?.cuts.findLastIndex((cut) => cut <= step) ?? -1;
      if (asked < 0) return [];
      return trace.belief.lines.map(({ name: answer, values }) => [`belief in ${answer}, asked at ${trace.belief.cuts[asked]}`, values[asked]]);
    }

    function facts(step) {
      const own = hook()?.specific, kind = trace.blocks[blockOf(step)]?.[1];
      const marks = [rawPeaks().includes(step) && "raw peak", ownPeaks().includes(step) && "specific peak", own?.peaks === null && `specific peaks unknown (${own.others} other answers)`].filter(Boolean);
      const events = trace.events.filter(([when]) => when === step).map(([, what]) => what);
      const rows = [
        ["step", `${step} of ${trace.tokens.length}`],
        ["token", JSON.stringify(trace.tokens[step]).slice(1, -1).replaceAll("\\\"", "\"").replaceAll(" ", "␣"), "token"],
        ["raw MI", hook()?.mi[step]],
        ["specific part", own?.values[step]],
        ["p, this step alone", own?.p[step]],
        ["p, whole trace", own?.family[step]],
        ["entropy, bits", trace.entropy?.[step]],
        ["surprisal, bits", trace.surprisal?.[step]],
        ...believed(step),
        ["thought", kind ?? "outside thoughts"],
        ["marks", marks.join(", ") || "none"],
        ["interventions", events.join("; ") || "none", "", "full"],
      ];
      for (const row of rows) row[1] = digits(row[1]);
      return trace.hooks.length ? rows : rows.filter(([label, value]) => value !== undefined && label !== "marks");
    }

    function detail(step) {
      $("details").querySelector("dl").replaceChildren(...facts(step).map(([label, value, className = "", place = ""]) => {
        const group = make("div", place);
        group.append(make("dt", "", label), make("dd", className, String(value ?? "–")));
        return group;
      }));
    }

    function go(step, scroll = true) {
      const target = Math.min(trace.tokens.length - 1, Math.max(0, step));
      spans[at]?.classList.remove("now");
      at = target;
      spans[at]?.classList.add("now");
      placeCursor();
      detail(at);
      map(trace, at, layer, inSpecific());
      const said = facts(at).filter(([, value]) => value !== undefined && value !== "none").map(([label, value]) => `${label} ${value}`).join(", ");
      $("plot").setAttribute("aria-valuenow", String(at));
      $("plot").setAttribute("aria-valuetext", said);
      if (document.activeElement === $("text")) $("spoken").textContent = said;
      if (scroll) reveal(spans[at]);
      remember();
    }

    /** Writes the step into the page's address, and the layer where it is not the first. */
    function remember() {
      const link = address(page.index[shownIndex].name, at) + (layer > 0 ? `&layer=${hook().name}` : "");
      $("link").setAttribute("href", link);
      if (asked) history.replaceState(null, "", link);
      asked = true;
    }

    /** Shows the trace and the step that the page's address names; false if it names none. */
    function follow() {
      const wanted = new URLSearchParams(location.hash.slice(1));
      if (!wanted.has("trace")) return false;
      const index = page.index.findIndex(({ name }) => name === wanted.get("trace"));
      const step = Number(wanted.get("step") ?? 0);
      const known = index >= 0 && Number.isInteger(step) && step >= 0 && step < page.index[index].steps;
      $("missing").hidden = known;
      if (!known) {
        $("missing").textContent = `The link asks for step ${wanted.get("step")} of trace ${wanted.get("trace")}, which is not on this page.`;
        $("viewer").scrollIntoView();
        return false;
      }
      asked = true;
      if (index !== shownIndex || !trace) show(index, step);
      const named = trace.hooks.findIndex(({ name }) => name === (wanted.get("layer") ?? trace.hooks[0]?.name));
      if (named >= 0 && named !== layer) pickLayer(named);
      $("text").scrollIntoView({ block: "center" });
      go(step);
      return true;
    }

    /** Scrolls the text, and not the page. */
    function reveal(span) {
      const box = $("text").getBoundingClientRect(), own = span.getBoundingClientRect(), margin = 40;
      if (own.top < box.top + margin) $("text").scrollTop -= box.top + margin - own.top;
      if (own.bottom > box.bottom - margin) $("text").scrollTop += own.bottom - box.bottom + margin;
    }

    function peakAfter(sign) {
      const all = [...new Set([...rawPeaks(), ...ownPeaks()])].sort((a, b) => a - b);
      return (sign > 0 ? all.find((step) => step > at) : all.findLast((step) => step < at)) ?? at;
    }

    function thoughtAfter(sign) {
      const block = blockOf(at);
      return trace.blocks[Math.min(trace.blocks.length - 1, Math.max(0, block + sign))][0];
    }

    function pickLayer(index) {
      if (index < 0 || index >= trace.hooks.length) return;
      layer = index;
      $("layer").selectedIndex = index;
      paint();
      draw();
      detail(at);
      remember();
    }

    function pickMeasure(name) {
      measure = name;
      paint();
      draw();
    }

    function pickCell(step, index) {
      if (index !== layer) pickLayer(index);
      go(step);
    }

    function turnMeasure() {
      pickMeasure(inSpecific() ? "raw" : "specific");
    }

    const keys = {
      ArrowRight: () => go(at + 1), ArrowLeft: () => go(at - 1),
      ArrowDown: () => go(thoughtAfter(1)), ArrowUp: () => go(thoughtAfter(-1)),
      n: () => go(peakAfter(1)), j: () => go(peakAfter(1)),
      p: () => go(peakAfter(-1)), k: () => go(peakAfter(-1)),
      Home: () => go(0), End: () => go(trace.tokens.length - 1),
      "[": () => pickLayer(layer - 1), "]": () => pickLayer(layer + 1),
      m: turnMeasure,
    };
    for (const id of ["text", "plot"]) {
      $(id).addEventListener("keydown", (event) => {
        if (event.ctrlKey || event.metaKey || event.altKey || !Object.hasOwn(keys, event.key)) return;
        event.preventDefault();
        keys[event.key]();
      });
    }
    $("text").addEventListener("click", (event) => { if (event.target.step !== undefined) go(event.target.step, false); });
    $("text").addEventListener("mousemove", (event) => {
      // Text that scrolls under a resting mouse is not what the user points at.
      if (event.movementX || event.movementY) detail(event.target.step ?? at);
    });
    $("text").addEventListener("mouseleave", () => detail(at));
    $("plot").addEventListener("click", (event) => go(toStep(event.clientX - $("plot").getBoundingClientRect().left)));
    $("pick").addEventListener("change", () => show($("pick").value));
    $("layer").addEventListener("change", () => pickLayer($("layer").selectedIndex));
    $("measure").addEventListener("change", (event) => pickMeasure(event.target.value));
    const readWords = () => { boxed = new Set($("words").value.split(/[\s,;]+/).map(wordOf).filter(Boolean)); };
    $("words").addEventListener("input", () => { readWords(); paint(); });
    readWords();
    if (!follow()) show(0);
    addEventListener("hashchange", follow);
    new ResizeObserver(draw).observe($("plot"));
  }
})();
