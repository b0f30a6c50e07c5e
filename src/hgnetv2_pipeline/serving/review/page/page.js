"use strict";
const $ = (id) => document.getElementById(id);
const NONE = ["review", null];
let contents = null, decided = {}, list = null, place = -1, busy = false;
const undone = []; // what was decided here, the latest last

function element(tag, text, kind) {
  const made = document.createElement(tag);
  if (text !== undefined) made.textContent = text;
  if (kind) made.className = kind;
  return made;
}

async function ask(path, body) {
  const answer = await fetch(path, body && {
    method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body),
  });
  const said = await answer.json();
  if (said.decided) take(said);
  if (!answer.ok) throw new Error(said.error);
  return said;
}

function take(state) {
  decided = state.decided;
  $("judged").hidden = !state.judged.length;
  $("judged").replaceChildren(...state.judged.map((line) => element("p", line)));
}

const now = (name, item) => (decided[name] || {})[item] || NONE;
const words = ([word, label]) =>
  ({ keep: "kept", remove: "removed", relabel: `relabelled: ${contents.classes[label]}` })[word] || "";

// The places that the filters leave, in order.
function places() {
  const wanted = $("filter").value, open = $("open").checked;
  return list.items.map((_, at) => at).filter((at) =>
    (wanted === "" || String(list.items[at].shown) === wanted) &&
    (!open || at === place || now(list.name, at)[0] === "review"));
}

function choose(name) {
  list = contents.lists.find((one) => one.name === name);
  place = -1;
  const classes = [...new Set(list.items.map((item) => item.shown))].filter((at) => at !== undefined);
  classes.sort((a, b) => a - b);
  $("filter").replaceChildren(new Option("all", ""),
    ...classes.map((at) => new Option(contents.classes[at], String(at))));
  for (const tab of $("tabs").children) tab.setAttribute("aria-current", tab.value === name);
  $("error").textContent = "";
  move(0);
}

// To the image so many places on; 0: the first that the filters leave.
function move(step) {
  const open = places(), at = open.indexOf(place);
  if (step === 0 || at < 0) place = open.length ? open[0] : -1;
  else place = open[Math.min(Math.max(at + step, 0), open.length - 1)];
  show();
}

function figure(number, caption) {
  const made = element("figure"), image = element("img");
  image.src = `/picture/${number}`;
  image.alt = caption;
  image.addEventListener("load", () => {
    if (Math.max(image.naturalWidth, image.naturalHeight) < 200) made.classList.add("tiny-image");
  });
  image.addEventListener("error", () => { image.alt = `${caption}: cannot be shown`; });
  made.append(image, element("figcaption", caption));
  return made;
}

function examples(label) {
  const numbers = contents.examples[label] || [];
  if (!numbers.length) return [];
  const made = element("figure", undefined, "small"), row = element("div", undefined, "row");
  for (const number of numbers) {
    const image = element("img");
    image.src = `/picture/${number}`;
    image.alt = "";
    row.append(image);
  }
  made.append(row, element("figcaption", `train: ${contents.classes[label]}`));
  return [made];
}

function show() {
  const item = list.items[place], total = list.items.length;
  const done = Object.keys(decided[list.name] || {}).length;
  for (const tab of $("tabs").children) {
    const one = contents.lists.find((each) => each.name === tab.value);
    const some = Object.keys(decided[one.name] || {}).length;
    tab.textContent = `${one.title} (${some} of ${one.items.length})`;
  }
  $("question").textContent = list.question;
  $("work").hidden = !total;
  $("empty").hidden = Boolean(item);
  $("empty").textContent = total ? "All of them are decided." : list.missing;
  $("progress").textContent = `${done} of ${total} decided`;
  $("done").max = Math.max(total, 1);
  $("done").value = done;
  $("undo").disabled = !undone.length;
  for (const id of ["pictures", "key", "about", "said", "relabel"]) $(id).hidden = !item;
  for (const id of ["keep", "remove", "back", "next"]) $(id).disabled = !item;
  $("suggest").hidden = true;
  if (!item) return;
  const named = (label) => contents.classes[label];
  const caption = item.twin !== undefined ? "of the pool"
    : item.shown === undefined ? "" : `${list.name === "labels" ? "labelled" : "taken for"} ${named(item.shown)}`;
  const shown = [figure(item.picture, caption)];
  if (item.twin !== undefined) shown.push(figure(item.twin, "protected"));
  else {
    const labels = new Set([item.shown, item.suggested].filter((label) => label !== undefined));
    for (const label of labels) shown.push(...examples(label));
  }
  $("pictures").replaceChildren(...shown);
  $("key").textContent = item.key;
  $("about").textContent = item.about;
  const [word] = now(list.name, place);
  $("said").className = word;
  $("said").textContent = words(now(list.name, place));
  const may = (what) => list.allowed.includes(what);
  $("keep").querySelector("span").textContent =
    may("keep") ? (item.twin !== undefined ? "Keep: another picture" : `Keep: ${named(item.shown)}`)
      : `Label: ${named(item.shown)}`;
  $("remove").querySelector("span").textContent = item.twin !== undefined ? "Remove: a copy"
    : "Remove: of no class";
  $("relabel").hidden = !may("relabel");
  $("suggest").hidden = item.suggested === undefined || item.suggested === item.shown;
  if (!$("suggest").hidden)
    $("suggest").querySelector("span").textContent = `Relabel: ${named(item.suggested)}`;
}

async function decide(name, item, was, next) {
  if (busy) return false;
  busy = true;
  $("error").textContent = "";
  try {
    await ask("/decide", { list: name, item, was, now: next });
    return true;
  } catch (error) {
    $("error").textContent = `Not written: ${error.message}`;
    return false;
  } finally {
    busy = false;
  }
}

async function say(word, label = null) {
  if (place < 0) return;
  const name = list.name, item = place, was = now(name, item), next = [word, label];
  if (await decide(name, item, was, next)) {
    undone.push({ name, item, was, next });
    move(1);
  } else show();
}

const keep = () => list.allowed.includes("keep") ? say("keep") : say("relabel", list.items[place]?.shown);
const suggest = () => { if (!$("suggest").hidden) say("relabel", list.items[place].suggested); };

async function undo() {
  const last = undone[undone.length - 1];
  if (!last || busy) return;
  if (await decide(last.name, last.item, last.next, last.was)) undone.pop();
  if (list.name !== last.name) choose(last.name);
  place = last.item;
  show();
}

function searched(event) {
  event.preventDefault();
  const given = $("name").value.trim();
  let label = contents.classes.indexOf(given);
  if (label < 0) {
    const close = contents.classes.map((name, at) => [name, at])
      .filter(([name]) => name.toLowerCase().includes(given.toLowerCase()));
    if (given && close.length === 1) label = close[0][1];
  }
  if (label < 0) { $("error").textContent = `"${given}" is no class`; return; }
  $("name").value = "";
  $("name").blur();
  say("relabel", label);
}

function pressed(event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.target.matches("input, select")) {
    if (event.key === "Escape") {
      if (event.target === $("name")) $("name").value = "";
      event.target.blur();
    }
    return;
  }
  const keys = { k: keep, x: () => say("remove"), s: suggest, u: undo, ArrowRight: () => move(1),
    ArrowLeft: () => move(-1), "/": () => $("name").focus() };
  const digit = "1234567890".indexOf(event.key);
  if (digit >= 0 && digit < contents.classes.length && list.allowed.includes("relabel"))
    say("relabel", digit);
  else if (keys[event.key]) keys[event.key]();
  else return;
  event.preventDefault();
}

async function start() {
  contents = await ask("/contents.json");
  $("title").textContent = document.title = `Review of ${contents.dataset}`;
  for (const one of contents.lists) {
    const tab = element("button", one.title);
    tab.value = one.name;
    tab.addEventListener("click", () => choose(one.name));
    $("tabs").append(tab);
  }
  $("names").append(...contents.classes.map((name) => new Option(name)));
  contents.classes.slice(0, 10).forEach((name, at) => {
    const button = element("button");
    button.append(element("kbd", String((at + 1) % 10)), ` ${name}`);
    button.addEventListener("click", () => say("relabel", at));
    $("classes").append(button);
  });
  const clicks = { keep, remove: () => say("remove"), suggest, undo, back: () => move(-1),
    next: () => move(1) };
  for (const [id, act] of Object.entries(clicks)) $(id).addEventListener("click", act);
  $("filter").addEventListener("change", () => { place = -1; move(0); });
  $("open").addEventListener("change", () => { place = -1; move(0); });
  $("search").addEventListener("submit", searched);
  document.addEventListener("keydown", pressed);
  // Somebody else may have decided meanwhile.
  window.addEventListener("focus", () => ask("/state.json").then(show, () => {}));
  await ask("/state.json");
  choose((contents.lists.find((one) => one.items.length) || contents.lists[0]).name);
}

start().catch((error) => { $("error").textContent = error.message; });
