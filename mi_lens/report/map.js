"use strict";

/** Numbers that Python packed as 32-bit floats in base64. */
function unpacked(text) {
  const characters = atob(text), bytes = new Uint8Array(characters.length);
  for (let i = 0; i < bytes.length; i++) bytes[i] = characters.charCodeAt(i);
  return new Float32Array(bytes.buffer);
}

/** A trace of the page with its numbers unpacked. */
function unpackedTrace(trace) {
  for (const name of ["entropy", "surprisal"]) if (trace[name]) trace[name] = unpacked(trace[name]);
  for (const hook of trace.hooks) {
    hook.mi = unpacked(hook.mi);
    if (!hook.specific) continue;
    for (const name of ["values", "mean", "std", "p", "family"]) hook.specific[name] = unpacked(hook.specific[name]);
  }
  return trace;
}

/** A number with four digits; anything else as it is. */
const digits = (value) => (typeof value === "number" && !Number.isInteger(value) ? Number(value.toPrecision(4)) : value);

/**
 * The map of layers and steps above the text of a trace. The first layer is the lowest row.
 *
 * @param pick Called with a step and the index of a layer when the reader picks a cell.
 * @param turn Called when the reader asks for the other measure.
 * @returns A function that shows a trace, a step, a layer, and raw MI or the specific part.
 */
function layerMap(pick, turn) {
  const HIGHEST = 0.98, TOKENS = 72, TOP = 20, RIGHT = 8, DOT = 7; // Pixels, except for the first.
  let trace = null, step = 0, layer = 0, specific = false, first = 0, drawn = "";
  let geometry = null, colours = null, root = null;

  const own = () => specific && trace.hooks.every((hook) => hook.specific);
  const rowOf = (hook) => (own() ? hook.specific.values : hook.mi);
  const peaksOf = (hook) => (own() ? hook.specific.peaks ?? [] : hook.peaks); // null: unknown
  const steps = () => trace.tokens.length;
  const shown = () => Math.min(steps(), Number($("map-span").value));
  const readable = (token) => token.replace(/\n/g, "↵").replace(/^ /, "␣");

  function svg(tag, attributes, text = "") {
    const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    element.textContent = text;
    root.append(element);
    return element;
  }

  // Values to colours.
  function quantile(values, share) {
    const sorted = Float32Array.from(values).sort();
    return sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))];
  }

  /** The ends of the scale of some rows. */
  function endsOf(rows) {
    const all = new Float32Array(rows.length * steps());
    rows.forEach((row, i) => all.set(own() ? row.map(Math.abs) : row, i * steps()));
    const high = quantile(all, HIGHEST), low = own() ? -high : all.reduce((a, b) => Math.min(a, b));
    return high > low ? [low, high] : [low, low + 1];
  }

  /** 256 colours from the low end of the scale to the high one. */
  function palette() {
    const stops = [...document.querySelectorAll("#map > i")].slice(own() ? 0 : 2)
      .map((mark) => getComputedStyle(mark).color.match(/[\d.]+/g).slice(0, 3).map(Number));
    const colour = (share) => {
      const at = share * (stops.length - 1), i = Math.min(stops.length - 2, Math.floor(at));
      return stops[i].map((value, channel) => value + (at - i) * (stops[i + 1][channel] - value));
    };
    return Array.from({ length: 256 }, (_, i) => colour(i / 255));
  }

  /** Pixels of some rows; the last row comes first. A column shows its value farthest from zero. */
  function pixels(rows, columns) {
    const image = new ImageData(columns, rows.length), width = shown() / columns;
    const ends = $("map-rows").checked ? rows.map((row) => endsOf([row])) : Array(rows.length).fill(endsOf(rows));
    rows.forEach((row, i) => {
      const [low, high] = ends[i];
      for (let x = 0; x < columns; x++) {
        let value = row[first + Math.floor(x * width)];
        for (let t = first + Math.ceil(x * width); t < first + (x + 1) * width; t++) {
          if (Math.abs(row[t]) > Math.abs(value)) value = row[t];
        }
        const share = Math.min(1, Math.max(0, (value - low) / (high - low)));
        image.data.set([...colours[Math.round(255 * share)], 255], 4 * ((rows.length - 1 - i) * columns + x));
      }
    });
    const scaled = $("map-rows").checked;
    $("map-low").textContent = scaled ? "lowest of the layer" : String(Number(ends[0][0].toPrecision(2)));
    $("map-high").textContent = scaled ? "highest 2 % of the layer" : `≥ ${Number(ends[0][1].toPrecision(2))}`;
    return image;
  }

  // The parts of the picture.
  function paintImage() {
    const { left, width, height } = geometry, canvas = $("map-image"), ratio = devicePixelRatio || 1;
    const image = pixels(trace.hooks.map(rowOf), Math.min(shown(), Math.ceil(width * ratio)));
    const small = new OffscreenCanvas(image.width, image.height);
    small.getContext("2d").putImageData(image, 0, 0);
    [canvas.width, canvas.height] = [width * ratio, height * ratio];
    Object.assign(canvas.style, { left: `${left}px`, top: `${TOP}px`, width: `${width}px`, height: `${height}px` });
    const context = canvas.getContext("2d");
    context.imageSmoothingEnabled = false;
    context.drawImage(small, 0, 0, canvas.width, canvas.height);
    const bar = $("map-colours").getContext("2d");
    for (let x = 0; x < 160; x++) {
      bar.fillStyle = `rgb(${colours[Math.round((255 * x) / 159)].join(" ")})`;
      bar.fillRect(x, 0, 1, 1);
    }
  }

  /** Short names of the layers: the block, if all are the same place of their block. */
  function names() {
    const parts = trace.hooks.map(({ name }) => name.match(/^blocks\.(\d+)\.(.+)$/));
    if (parts.every((part) => part && part[2] === parts[0]?.[2])) return parts.map((part) => part[1]);
    return trace.hooks.map(({ name }) => name.replace(/^blocks\./, ""));
  }

  function drawAxes() {
    const { left, height, row } = geometry, every = Math.ceil(12 / row), labels = names();
    labels.forEach((name, i) => {
      if (i % every) return;
      const short = name.length > 16 ? `${name.slice(0, 15)}…` : name;
      svg("text", { x: left - 6, y: yOf(i) + 4, "text-anchor": "end" }, short);
    });
    const rough = shown() / Math.max(2, geometry.width / 90), power = 10 ** Math.floor(Math.log10(rough));
    const gap = Math.max(1, [1, 2, 5, 10].map((m) => m * power).find((m) => m >= rough));
    for (let t = Math.ceil(first / gap) * gap; t < first + shown(); t += gap) {
      svg("text", { x: xOf(t), y: TOP - 6, "text-anchor": "middle" }, String(t));
    }
    for (const t of labelled()) {
      const x = xOf(t), y = TOP + height + 6, text = readable(trace.tokens[t]);
      const place = { class: "tokens", x, y, transform: `rotate(90 ${x} ${y})`, dy: "3" };
      svg("text", place, text.length > 11 ? `${text.slice(0, 10)}…` : text);
    }
  }

  /** The steps whose tokens have room below the map; peaks of many layers come first. */
  function labelled() {
    const gap = Math.ceil(shown() / (geometry.width / 14)), rows = new Uint16Array(steps());
    for (const hook of trace.hooks) for (const peak of peaksOf(hook)) rows[peak]++;
    const taken = new Uint8Array(steps()), chosen = [];
    const order = Array.from({ length: shown() }, (_, i) => first + i).sort((a, b) => rows[b] - rows[a]);
    for (const t of order) {
      if (taken[t]) continue;
      chosen.push(t);
      taken.fill(1, Math.max(0, t - gap + 1), t + gap);
    }
    return chosen;
  }

  function drawPeaks() {
    const dots = [], room = Math.max(1, (shown() * DOT) / geometry.width);
    trace.hooks.forEach((hook, i) => {
      const highest = new Map(), row = rowOf(hook);
      for (const peak of peaksOf(hook)) {
        if (peak < first || peak >= first + shown()) continue;
        const place = Math.floor(peak / room);
        if (!(row[peak] <= row[highest.get(place)])) highest.set(place, peak);
      }
      for (const peak of highest.values()) dots.push(`M${xOf(peak).toFixed(1)} ${yOf(i)}h0`);
    });
    svg("path", { class: "halo", d: dots.join("") });
    svg("path", { class: own() ? "dot own" : "dot", d: dots.join("") });
  }

  const xOf = (t) => geometry.left + ((t - first + 0.5) / shown()) * geometry.width;
  const yOf = (i) => TOP + (trace.hooks.length - 1 - i + 0.5) * geometry.row;

  function draw() {
    const labels = names(), box = $("map-cells"), row = Math.max(11, Math.min(22, 330 / labels.length));
    const left = Math.min(112, 12 + 7 * Math.max(...labels.map((name) => name.length)));
    geometry = { left, row, width: Math.max(120, box.clientWidth - left - RIGHT), height: row * labels.length };
    colours = palette();
    box.querySelector("svg")?.remove();
    const height = TOP + geometry.height + TOKENS;
    root = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    for (const [name, value] of Object.entries({ "aria-hidden": "true", height, viewBox: `0 0 ${Math.max(1, box.clientWidth)} ${height}` })) root.setAttribute(name, value);
    box.append(root);
    paintImage();
    drawAxes();
    drawPeaks();
    $("map-title").textContent = own() ? "specific part, in standard deviations of the other answers" : "raw MI";
  }

  /** The picked cell, on the map and in words. */
  function mark() {
    const width = Math.max(4, geometry.width / shown());
    const frame = { x: xOf(step) - width / 2, y: yOf(layer) - geometry.row / 2, width, height: geometry.row };
    for (const old of root.querySelectorAll("rect")) old.remove();
    svg("rect", { class: "around", ...frame });
    svg("rect", { class: "cell", ...frame });
    const hook = trace.hooks[layer], numbers = [["raw MI", hook.mi[step]]];
    if (hook.specific) numbers.push(["specific part", hook.specific.values[step]], ["p, whole trace", hook.specific.family[step]]);
    if (trace.entropy) numbers.push(["entropy, bits", trace.entropy[step]], ["surprisal, bits", trace.surprisal[step]]);
    const peaks = [hook.peaks.includes(step) && "raw peak", hook.specific?.peaks?.includes(step) && "specific peak"].filter(Boolean);
    const token = document.createElement("b");
    token.textContent = readable(trace.tokens[step]);
    const said = [`, ${hook.name}`, ...numbers.map(([name, value]) => `${name} ${digits(value)}`), ...peaks].join(" · ");
    $("map-cell").replaceChildren(`Step ${step}: `, token, said);
  }

  function refresh() {
    const size = shown();
    if (step < first || step >= first + size || first + size > steps()) {
      first = Math.max(0, Math.min(steps() - size, step - Math.floor(size / 2)));
    }
    const wanted = [trace.id, trace.run, own(), first, size, $("map-rows").checked, $("map-cells").clientWidth].join();
    if (wanted !== drawn) draw();
    drawn = wanted;
    mark();
  }

  function redraw() {
    if (!trace || $("map").hidden) return;
    drawn = "";
    refresh();
  }

  // The reader.
  const go = (t, i) => pick(Math.max(0, Math.min(steps() - 1, t)), Math.max(0, Math.min(trace.hooks.length - 1, i)));
  const jump = () => Math.max(1, Math.round(shown() / 10));
  const peaks = () => peaksOf(trace.hooks[layer]);
  const keys = {
    ArrowRight: () => go(step + 1, layer), ArrowLeft: () => go(step - 1, layer),
    ArrowUp: () => go(step, layer + 1), ArrowDown: () => go(step, layer - 1),
    PageDown: () => go(step + jump(), layer), PageUp: () => go(step - jump(), layer),
    Home: () => go(0, layer), End: () => go(steps() - 1, layer),
    n: () => go(peaks().find((peak) => peak > step) ?? step, layer),
    p: () => go(peaks().findLast((peak) => peak < step) ?? step, layer),
    m: turn,
  };
  $("map-cells").addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || !Object.hasOwn(keys, event.key)) return;
    event.preventDefault();
    keys[event.key]();
  });
  $("map-cells").addEventListener("click", (event) => {
    const box = $("map-cells").getBoundingClientRect();
    const x = event.clientX - box.left - geometry.left, y = event.clientY - box.top - TOP;
    if (y > geometry.height + TOKENS || x < 0) return;
    const t = first + Math.floor((x / geometry.width) * shown());
    go(Math.min(t, first + shown() - 1), trace.hooks.length - 1 - Math.floor(y / geometry.row));
  });
  $("map-rows").addEventListener("change", redraw);
  $("map-span").addEventListener("change", redraw);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
  new MutationObserver(redraw).observe(document.documentElement, { attributeFilter: ["data-theme"] });
  new ResizeObserver(() => { if (trace && !$("map").hidden) refresh(); }).observe($("map-cells"));

  return (...shownNow) => {
    [trace, step, layer, specific] = shownNow;
    $("map").hidden = trace.hooks.length < 2;
    if (!$("map").hidden) refresh();
  };
}
