"use strict";

const byId = (id) => document.getElementById(id);

function headers() {
  const token = byId("token").value;
  return token ? { Authorization: `Bearer ${token}` } : {};
}

function say(text, bad = false) {
  byId("status").textContent = text;
  byId("status").classList.toggle("bad", bad);
}

// The answer as an object; throws what the server says is wrong.
async function ask(path, options = {}) {
  const response = await fetch(path, { ...options, headers: headers() });
  if (response.status === 401) {
    byId("token-row").hidden = false;
    throw new Error("Enter the server's token.");
  }
  const said = await response.json();
  if (!response.ok && !said.results) throw new Error(said.error || response.statusText);
  return said;
}

async function listModels() {
  try {
    const rows = await ask("/v2/repository/index", { method: "POST" });
    const names = [...new Set(rows.map((row) => row.name))];
    byId("model").replaceChildren(...names.map((name) => new Option(name)));
    say("");
  } catch (error) {
    say(error.message, true);
  }
}

function element(kind, text, ...children) {
  const made = document.createElement(kind);
  if (text) made.textContent = text;
  made.append(...children);
  return made;
}

function bars(result) {
  if (result.error) {
    const reason = element("p", result.error);
    reason.className = "bad";
    return reason;
  }
  if (!result.class_ids.length) return element("p", "No class is above its threshold.");
  return element("ol", "", ...result.class_ids.map((id, place) => {
    const score = result.scores[place];
    const meter = element("meter");
    meter.value = score;
    const name = element("span", result.label_names[place] || String(id));
    const share = element("span", `${(100 * score).toFixed(1)} %`);
    return element("li", "", element("div", "", name, share), meter);
  }));
}

function picture(file) {
  const image = element("img");
  image.alt = "";
  image.src = URL.createObjectURL(file);
  image.onload = image.onerror = () => URL.revokeObjectURL(image.src);
  return image;
}

let shown = [];  // the pictures that were asked about last

async function classify(files) {
  const pictures = [...files];
  byId("results").replaceChildren();
  if (!pictures.length) return say("There is no picture in what was given.", true);
  shown = pictures;
  const form = new FormData();
  for (const file of pictures) form.append("image", file, file.name || "picture");
  const query = new URLSearchParams({ model: byId("model").value, topk: byId("topk").value || 5 });
  say("Waiting for the answer …");
  try {
    const said = await ask(`/v1/classify?${query}`, { method: "POST", body: form });
    say("");
    byId("results").replaceChildren(...said.results.map((result, place) => {
      const name = element("figcaption", result.file_name);
      return element("figure", "", name, picture(pictures[place]), bars(result));
    }));
  } catch (error) {
    say(error.message, true);
  }
}

const drop = byId("drop");
for (const kind of ["dragenter", "dragover"]) {
  document.addEventListener(kind, (event) => {
    event.preventDefault();
    drop.classList.add("over");
  });
}
for (const kind of ["dragleave", "drop"]) {
  document.addEventListener(kind, () => drop.classList.remove("over"));
}
document.addEventListener("drop", (event) => {
  event.preventDefault();
  classify(event.dataTransfer.files);
});
document.addEventListener("paste", (event) => {
  if (event.clipboardData.files.length) classify(event.clipboardData.files);
});
byId("file").addEventListener("change", (event) => {
  classify(event.target.files);
  event.target.value = "";  // or the same file could not be chosen again
});
for (const id of ["model", "topk"]) {
  byId(id).addEventListener("change", () => {
    if (shown.length) classify(shown);
  });
}
byId("token").addEventListener("change", listModels);
byId("options").addEventListener("submit", (event) => event.preventDefault());
listModels();
