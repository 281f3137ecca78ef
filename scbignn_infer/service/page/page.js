"use strict";
// Speaks to /models, /health and /results of the service that has sent this page, and to nothing
// else. What a file or a server says is put into the page as text, never as markup.

const LOOK_MS = 400; // between two looks at how far the work is
const HDF5 = [0x89, 0x48, 0x44, 0x46, 0x0d, 0x0a, 0x1a, 0x0a];
const $ = (id) => document.getElementById(id);
const STAGES = {
  inspect: "Reading the file",
  "gene level": "Reading the genes of each cell",
  graph: "Finding the neighbours of each cell",
  "cell level": "Comparing cells with their neighbours",
  scores: "Scoring the labels",
  adapt: "Adapting the model to the cells",
  report: "Drawing the report",
  write: "Writing the results",
};

let models = [];
let most = Infinity;
let checking = false; // the file that is chosen
let working = null; // the request that is being answered
let held = null; // the address of results that the service keeps

function text(id, words) {
  $(id).textContent = words;
}

function fail(line) {
  text("error", line); // an alert: it is spoken at once
}

function size(bytes) {
  const [unit, name] = [[1e9, "GB"], [1e6, "MB"]].find(([n]) => bytes >= n) || [1e3, "kB"];
  return `${Number((bytes / unit).toFixed(1))} ${name}`;
}

async function ask(path) {
  const answer = await fetch(path, { cache: "no-store" });
  const body = await answer.json();
  if (!answer.ok) throw new Error(body.error);
  return body;
}

function fill(select, pairs) {
  select.replaceChildren(...pairs.map(([value, words]) => new Option(words, value)));
}

function showModel() {
  const model = models.find((m) => m.name === $("model").value);
  const tissues = (model && model.tissues) || [];
  $("tissues").hidden = tissues.length === 0;
  fill($("tissue"), [["", "found from the cells"], ["any", "any"], ...tissues.map((t) => [t, t])]);
  if (!model) return text("about-model", "");
  const of = [model.species, model.tissues ? "any tissue" : model.tissue].join(", ");
  text("about-model", `${of}; ${model.cell_types.length} types; version ${model.version}`);
}

async function begin() {
  text("place", location.host);
  try {
    const [health, list] = await Promise.all([ask("/health"), ask("/models")]);
    models = list.models;
    most = health.max_size;
    $("reports").hidden = !health.report;
    $("report").checked = health.report;
    text("most", ` At most ${size(most)}.`);
  } catch (error) {
    return fail(`The service does not answer (${error.message}). Is it running?`);
  }
  const none = models.length === 1 ? [] : [["", "choose a model"]];
  fill($("model"), [...none, ...models.map((m) => [m.name, m.name])]);
  showModel();
}

function busy(on) {
  for (const id of ["file", "model", "tissue", "report", "start"]) $(id).disabled = on;
  $("cancel").hidden = !on;
  $("work").hidden = !on;
  $("form").setAttribute("aria-busy", String(on));
}

function progress(words, done, total) {
  const changed = $("stage").textContent.split(":")[0] !== words;
  const share = total > 0 ? Math.min(done / total, 1) : null;
  if (share === null) $("bar").removeAttribute("value");
  else $("bar").value = share;
  text("stage", share === null ? words : `${words}: ${Math.floor(100 * share)} %`);
  if (changed) text("status", words); // spoken once for each stage
}

function newName() {
  const bytes = crypto.getRandomValues(new Uint8Array(18));
  return btoa(String.fromCharCode(...bytes)).replaceAll("+", "-").replaceAll("/", "_");
}

async function isHdf5(file) {
  const head = new Uint8Array(await file.slice(0, HDF5.length).arrayBuffer());
  return HDF5.every((byte, i) => head[i] === byte);
}

async function check(file) {
  if (!file) return "No file is chosen; choose one or drop one.";
  if (!$("model").value) return "No model is chosen; choose one.";
  if (file.size > most) return `The file has ${size(file.size)}; the service takes ${size(most)}.`;
  try {
    if (await isHdf5(file)) return "";
  } catch {
    return `${file.name} cannot be read; is it a folder, or was it moved?`;
  }
  return `${file.name} is no HDF5 file; choose an .h5ad, .h5, .h5mu or .loom file.`;
}

function address(file) {
  const wishes = new URLSearchParams({ model: $("model").value, report: $("report").checked });
  wishes.append("file_name", file.name.slice(0, 500)); // for the heading of the report
  if ($("tissue").value) wishes.append("tissue", $("tissue").value);
  return `/results/${newName()}?${wishes}`;
}

function send(file, path) {
  const request = new XMLHttpRequest(); // fetch does not tell how much has been sent
  request.open("PUT", path);
  request.setRequestHeader("Content-Type", "application/x-hdf5");
  request.responseType = "json";
  request.upload.onprogress = (e) => progress("Sending the file", e.loaded, e.total);
  return [
    request,
    new Promise((resolve, reject) => {
      request.onload = () => {
        const said = request.response || {};
        if (request.status === 201) resolve(said);
        else reject(new Error(said.error || `The service answered ${request.status}.`));
      };
      request.onerror = () => reject(new Error("The service does not answer. Is it running?"));
      request.onabort = () => reject(new Error(""));
      request.send(file);
    }),
  ];
}

async function look(path, request) {
  while (working === request) {
    await new Promise((resolve) => setTimeout(resolve, LOOK_MS));
    let seen;
    try {
      seen = await ask(path);
    } catch {
      continue; // the request itself says what is wrong
    }
    if (working !== request) return;
    if (seen.state === "waiting") progress("Waiting for other requests", 0, 0);
    if (seen.state === "working") progress(STAGES[seen.stage] || seen.stage, seen.done, seen.total);
  }
}

function forget() {
  if (held) fetch(held, { method: "DELETE", keepalive: true }).catch(() => {});
  held = null;
}

async function label(event) {
  event.preventDefault();
  text("error", "");
  const file = $("file").files[0];
  if (checking || working) return;
  checking = true;
  const wrong = await check(file);
  checking = false;
  if (wrong) return fail(wrong);
  forget();
  $("result").hidden = true;
  const path = address(file);
  const place = path.split("?")[0];
  busy(true);
  $("cancel").focus();
  progress("Sending the file", 0, 1);
  const [request, answer] = send(file, path);
  working = request;
  look(place, request);
  try {
    const result = await answer;
    held = place;
    show(file.name, place, result);
  } catch (error) {
    text("status", error.message ? "" : "Cancelled.");
    if (error.message) fail(error.message);
  }
  working = null;
  busy(false);
  ($("result").hidden ? $("start") : $("title")).focus();
}

function row(name, n, share) {
  const made = document.createElement("tr");
  for (const [kind, words] of [["th", name], ["td", n], ["td", share]]) {
    const cell = document.createElement(kind);
    cell.textContent = words;
    if (kind === "th") cell.scope = "row";
    else cell.className = "number";
    made.append(cell);
  }
  return made;
}

function show(name, place, result) {
  const { summary, files } = result;
  const stem = name.replace(/\.[^.]*$/, "");
  text("title", `Labels of ${name}`);
  const unknown = summary.unknown.toLocaleString("en");
  const cells = summary.cells.toLocaleString("en");
  const made = `${summary.model.name} ${summary.model.version}`;
  text("said", `${cells} cells, of which ${unknown} unknown; ${made}; ${summary.seconds.toFixed(1)} seconds.`);
  $("warnings").replaceChildren(
    ...summary.warnings.map((words) => {
      const item = document.createElement("li");
      item.textContent = words;
      return item;
    }),
  );
  for (const [id, kind, suffix] of [
    ["table", "table", ".scbignn.csv"],
    ["h5ad", "h5ad", ".scbignn.h5ad"],
    ["open", "report", ""],
  ]) {
    $(id).hidden = !files.includes(kind);
    $(id).href = `${place}/${kind}`;
    if (suffix) $(id).download = stem + suffix;
  }
  const minutes = Math.round(result.seconds_left / 60);
  text("until", `The service keeps these files for ${minutes} minutes.`);
  $("labels").replaceChildren(
    ...Object.entries(summary.labels).map(([label, n]) =>
      row(label, n.toLocaleString("en"), `${((100 * n) / summary.cells).toFixed(1)} %`),
    ),
  );
  $("frame").replaceChildren();
  if (files.includes("report")) {
    const frame = document.createElement("iframe");
    frame.title = "Report";
    frame.setAttribute("sandbox", "allow-scripts allow-downloads allow-popups");
    frame.src = `${place}/report`;
    $("frame").append(frame);
  }
  text("status", "Done.");
  $("result").hidden = false;
}

function takeDropped(event) {
  event.preventDefault();
  $("drop").classList.remove("over");
  const files = event.dataTransfer ? event.dataTransfer.files : [];
  if (working || files.length === 0) return;
  text("error", "");
  if (files.length > 1) return fail(`${files.length} files were dropped; drop one at a time.`);
  $("file").files = files;
  text("status", `${files[0].name} is chosen.`);
}

addEventListener("dragover", (event) => {
  event.preventDefault(); // else the browser opens what is dropped
  $("drop").classList.add("over");
});
addEventListener("dragleave", () => $("drop").classList.remove("over"));
addEventListener("drop", takeDropped);
$("form").addEventListener("submit", label);
$("form").noValidate = true; // check() says what is missing, in one line
$("model").addEventListener("change", showModel);
$("cancel").addEventListener("click", () => working && working.abort());
begin();
