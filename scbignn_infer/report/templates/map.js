"use strict";
// The map of the cells: a canvas, colours by what is chosen, a word on the cell that is pointed at.
(function () {
  const data = JSON.parse(document.getElementById("data").textContent);
  const bytes = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  const x = new Uint16Array(bytes(data.x).buffer);
  const y = new Uint16Array(bytes(data.y).buffer);
  const columns = {};
  for (const [name, text] of Object.entries(data.columns)) columns[name] = bytes(text);
  const n = x.length;
  const canvas = document.getElementById("map");
  const choice = document.getElementById("colour-by");
  const named = document.getElementById("named");
  const legend = document.getElementById("legend");
  const tip = document.getElementById("tip");
  const context = canvas.getContext("2d");
  const hidden = new Set();
  const members = data.centres.map(() => []);
  for (let i = 0; i < n; i++) if (members[columns.label[i]].length < 200) members[columns.label[i]].push(i);
  let size = 0, ratio = 1;

  function place() {
    ratio = window.devicePixelRatio || 1;
    size = canvas.clientWidth;
    canvas.width = canvas.height = Math.max(1, Math.round(size * ratio));
  }
  const px = (at) => (0.02 + (0.96 * at) / 65535) * canvas.width;
  const py = (at) => (0.98 - (0.96 * at) / 65535) * canvas.height;
  function look(name, value) {
    const kind = data.kinds[name];
    if (kind.categories) return kind.categories[value];
    return { colour: data.ramp[Math.round(value / 255 * (data.ramp.length - 1))], pattern: 0 };
  }
  // A pattern of the bars is a form on the map: square, ring, cross, triangle.
  function mark(on, form, a, b, r) {
    if (form === 0) { on.fillRect(a - r, b - r, 2 * r, 2 * r); return; }
    on.beginPath();
    if (form === 1) on.arc(a, b, r, 0, 2 * Math.PI);
    if (form === 2) { on.moveTo(a - r, b - r); on.lineTo(a + r, b + r); on.moveTo(a - r, b + r); on.lineTo(a + r, b - r); }
    if (form === 3) { on.moveTo(a - r, b + r); on.lineTo(a, b - r); on.lineTo(a + r, b + r); on.closePath(); }
    on.lineWidth = Math.max(1, r / 2);
    on.stroke();
  }
  function draw() {
    const name = choice.value, values = columns[name], kind = data.kinds[name];
    context.clearRect(0, 0, canvas.width, canvas.height);
    const radius = Math.max(0.7, Math.min(3.2, 90 / Math.sqrt(n))) * ratio;
    for (let step = 0; step < n; step++) {
      const i = data.order ? (step * data.order) % n : step;
      if (kind.categories && hidden.has(values[i])) continue;
      const drawn = look(name, values[i]);
      context.fillStyle = context.strokeStyle = drawn.colour;
      mark(context, drawn.pattern, px(x[i]), py(y[i]), radius);
    }
    const written = named.checked ? names(name) : [];
    canvas.dataset.drawn = name;
    canvas.dataset.names = written.join("\n");
  }
  // Names on the map, the largest label's first; one that would hide its cells or lie on another name is moved, or
  // left to the legend.
  function names(name) {
    if (name === "sample") return [];
    const kinds = data.kinds.label.categories, style = getComputedStyle(canvas);
    const order = kinds.map((_, i) => i).filter((i) => !kinds[i].unknown && (name !== "label" || !hidden.has(i)));
    order.sort((a, b) => kinds[b].n - kinds[a].n);
    const taken = [], written = [], high = 15 * ratio;
    context.font = "600 " + 12 * ratio + "px system-ui, sans-serif";
    context.textAlign = "center";
    context.textBaseline = "middle";
    context.lineJoin = "round";
    for (const i of order) {
      const word = kinds[i].label, half = context.measureText(word).width / 2 + 2 * ratio;
      const [cx, cy] = [px(data.centres[i][0] * 65535), py(data.centres[i][1] * 65535)];
      const a = Math.min(Math.max(cx, half), canvas.width - half);
      const under = members[i].filter((c) => Math.abs(px(x[c]) - a) < half && Math.abs(py(y[c]) - cy) < high / 2);
      const moves = under.length > 0.4 * members[i].length ? [-1, 1, -2, 2, 0] : [0, -1, 1, -2, 2];
      const free = moves.map((k) => Math.min(Math.max(cy + k * high, high / 2), canvas.height - high / 2))
        .find((b) => taken.every((t) => Math.abs(t[0] - a) >= t[2] + half || Math.abs(t[1] - b) >= high));
      if (free === undefined || half > canvas.width / 2) continue;
      taken.push([a, free, half]);
      context.lineWidth = 4 * ratio;
      context.strokeStyle = style.backgroundColor;
      context.strokeText(word, a, free);
      context.fillStyle = style.color;
      context.fillText(word, a, free);
      written.push(word);
    }
    return written;
  }
  function explain() {
    const name = choice.value, kind = data.kinds[name];
    legend.replaceChildren();
    hidden.clear();
    if (!kind.categories) {
      const bar = document.createElement("div");
      bar.className = "bar";
      bar.style.background = "linear-gradient(90deg," + data.ramp.join(",") + ")";
      const words = document.createElement("div");
      words.textContent = "0 – 1: " + kind.title;
      legend.append(bar, words);
      return;
    }
    kind.categories.forEach((category, code) => {
      const entry = document.createElement("button");
      entry.type = "button";
      const dot = document.createElement("canvas"), on = dot.getContext("2d");
      dot.width = dot.height = 28;
      on.fillStyle = on.strokeStyle = category.colour;
      mark(on, category.pattern, 14, 14, 11);
      entry.append(dot, category.label + " (" + category.n.toLocaleString("en") + ")");
      entry.setAttribute("aria-pressed", "true");
      entry.addEventListener("click", () => {
        if (hidden.has(code)) hidden.delete(code); else hidden.add(code);
        entry.setAttribute("aria-pressed", String(!hidden.has(code)));
        draw();
      });
      legend.append(entry);
    });
  }
  function nearest(event) {
    const box = canvas.getBoundingClientRect();
    const a = (event.clientX - box.left) * ratio, b = (event.clientY - box.top) * ratio;
    let best = -1, least = (9 * ratio) ** 2;
    for (let i = 0; i < n; i++) {
      const d = (px(x[i]) - a) ** 2 + (py(y[i]) - b) ** 2;
      if (d < least) { least = d; best = i; }
    }
    return best;
  }
  function show(event) {
    const i = nearest(event);
    tip.hidden = i < 0;
    if (i < 0) return;
    const lines = [data.names ? data.names[i] : "cell " + (i + 1)];
    for (const [name, kind] of Object.entries(data.kinds)) {
      const value = columns[name][i];
      lines.push(kind.title + ": " + (kind.categories ? kind.categories[value].label : (value / 255).toFixed(2)));
    }
    tip.textContent = lines.join("\n");
    const box = canvas.getBoundingClientRect();
    tip.style.left = Math.max(0, Math.min(event.clientX - box.left + 12, box.width - 190)) + "px";
    tip.style.top = event.clientY - box.top + 12 + "px";
  }
  choice.addEventListener("change", () => { explain(); draw(); });
  named.addEventListener("change", draw);
  canvas.addEventListener("pointermove", show);
  canvas.addEventListener("pointerleave", () => { tip.hidden = true; });
  window.addEventListener("resize", () => { place(); draw(); });
  for (const mode of ["(prefers-color-scheme: dark)", "print"]) window.matchMedia(mode).addEventListener("change", draw);
  place(); explain(); draw();
})();
