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
  const legend = document.getElementById("legend");
  const tip = document.getElementById("tip");
  const context = canvas.getContext("2d");
  const hidden = new Set();
  let size = 0, ratio = 1;

  function place() {
    ratio = window.devicePixelRatio || 1;
    size = canvas.clientWidth;
    canvas.width = canvas.height = Math.max(1, Math.round(size * ratio));
  }
  const px = (i) => (0.02 + (0.96 * x[i]) / 65535) * canvas.width;
  const py = (i) => (0.98 - (0.96 * y[i]) / 65535) * canvas.height;
  function colour(name, value) {
    const kind = data.kinds[name];
    return kind.categories ? kind.categories[value].colour : data.ramp[Math.round(value / 255 * (data.ramp.length - 1))];
  }
  function draw() {
    const name = choice.value, values = columns[name], kind = data.kinds[name];
    context.clearRect(0, 0, canvas.width, canvas.height);
    const radius = Math.max(0.7, Math.min(3.2, 90 / Math.sqrt(n))) * ratio;
    for (let step = 0; step < n; step++) {
      const i = data.order ? (step * data.order) % n : step;
      if (kind.categories && hidden.has(values[i])) continue;
      context.fillStyle = colour(name, values[i]);
      context.fillRect(px(i) - radius, py(i) - radius, 2 * radius, 2 * radius);
    }
    canvas.dataset.drawn = name;
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
      const dot = document.createElement("i");
      dot.style.background = category.colour;
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
      const d = (px(i) - a) ** 2 + (py(i) - b) ** 2;
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
    tip.style.left = Math.min(event.clientX - box.left + 12, box.width - 190) + "px";
    tip.style.top = event.clientY - box.top + 12 + "px";
  }
  choice.addEventListener("change", () => { explain(); draw(); });
  canvas.addEventListener("pointermove", show);
  canvas.addEventListener("pointerleave", () => { tip.hidden = true; });
  window.addEventListener("resize", () => { place(); draw(); });
  place(); explain(); draw();
})();
