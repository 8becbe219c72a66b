"use strict";
// Interactive view of the attention of one image's deformable layers. The data are in a JSON element, written by
// viewer/attention_page.py.

const $ = (id) => document.getElementById(id);
const data = JSON.parse($("data").textContent);
const [width, height] = data.size; // of the model's input, in pixels; the coordinates of the drawing
const COLORS = data.colors;
const AREA = 0.1 * width * height; // total area of a query's circles

const bytes = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
const numbers = (text) => Float32Array.from(new Int16Array(bytes(text).buffer), (value) => value * data.unit);
const layers = data.layers.map((layer) => ({
  ...layer,
  points: numbers(layer.points), // (groups, keys, 2) pixels x, y
  reference: numbers(layer.reference), // (keys, 2)
  roots: bytes(layer.attention), // (heads, queries, keys) square roots of weights; 255 is the root of `most`
  rows: Math.ceil(layer.size[0] / layer.step), // of queries; every step-th query is stored
  columns: Math.ceil(layer.size[1] / layer.step),
}));

// Selection: a layer, one of its groups (-1: all), one head of the group (-1: mean), a query (pixel).
const state = { layer: firstLayer(), group: -1, head: -1, x: data.start[0], y: data.start[1], held: false };
let layer, circles, query;

/** The last layer of the last stage but one, which has a readable number of points. */
function firstLayer() {
  const stages = [...new Set(layers.map((item) => item.stage))];
  return layers.findLastIndex((item) => item.stage === stages[Math.max(stages.length - 2, 0)]);
}
const element = (parent, name, attributes) => {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return parent.appendChild(made);
};
const percent = (share) => (100 * share).toFixed(share < 0.1 ? 1 : 0) + " %";
const shownGroups = () => (state.group < 0 ? [...Array(layer.groups).keys()] : [state.group]);
const shownHeads = (group) => {
  const each = layer.heads / layer.groups;
  return state.head < 0 ? [...Array(each).keys()].map((head) => group * each + head) : [group * each + state.head];
};

/** Weight of a key for a query: mean over the selected heads and groups. Over groups and keys it sums to 1. */
function weightOf(group, key, query) {
  const heads = shownHeads(group);
  let sum = 0;
  for (const head of heads) sum += (layer.roots[(head * layer.rows * layer.columns + query) * layer.keys + key] / 255) ** 2;
  return (sum * layer.most) / heads.length / shownGroups().length;
}

/** Pixel at the center of a query's cell. */
const middle = (query) => [
  ((query % layer.columns) * layer.step + 0.5) * layer.reduction,
  (Math.floor(query / layer.columns) * layer.step + 0.5) * layer.reduction,
];

function nearestQuery(x, y) {
  const place = (pixel, count) => {
    const cell = Math.floor(pixel / layer.reduction);
    return Math.min(Math.max(Math.round(cell / layer.step), 0), count - 1);
  };
  return place(y, layer.rows) * layer.columns + place(x, layer.columns);
}

// Drawing

function drawLayer() {
  layer = layers[state.layer];
  for (const id of ["grid", "arrows", "keys"]) $(id).replaceChildren();
  const small = 0.006 * Math.max(width, height);
  const isOutside = (x, y) => {
    const [rows, columns] = layer.size, margin = layer.reduction / 2;
    return x < margin || y < margin || x > columns * layer.reduction - margin || y > rows * layer.reduction - margin;
  };
  circles = [];
  const outside = Array(layer.groups).fill(0);
  for (let key = 0; key < layer.keys; key++) {
    const [x, y] = [layer.reference[2 * key], layer.reference[2 * key + 1]];
    element($("grid"), "circle", { cx: x, cy: y, r: small * 0.7, fill: "#fff", stroke: "#000", "stroke-width": small / 5 });
  }
  for (let group = 0; group < layer.groups; group++) {
    const seen = shownGroups().includes(group);
    const fill = COLORS[group % COLORS.length];
    for (let key = 0; key < layer.keys; key++) {
      const at = 2 * (group * layer.keys + key);
      const [x, y] = [layer.points[at], layer.points[at + 1]];
      outside[group] += isOutside(x, y);
      if (!seen) continue;
      const line = { x1: layer.reference[2 * key], y1: layer.reference[2 * key + 1], x2: x, y2: y };
      element($("arrows"), "line", { ...line, stroke: fill, "stroke-width": small / 3 });
      const circle = element($("keys"), "circle", { cx: x, cy: y, fill, stroke: "#000", "stroke-width": small / 5 });
      circles.push({ circle, group, key, x, y, least: small * 0.6 });
    }
  }
  $("groups").replaceChildren(...outside.map((count, group) => {
    const item = document.createElement("li");
    const dot = document.createElement("i");
    dot.style.background = COLORS[group % COLORS.length];
    item.append(dot, `${group + 1}${count ? `, ${percent(count / layer.keys)} outside` : ""}`);
    return item;
  }));
  drawHeat();
  drawQuery();
}

function drawQuery() {
  query = nearestQuery(state.x, state.y);
  const [x, y] = middle(query), side = layer.reduction * layer.step, thin = 0.004 * Math.max(width, height);
  for (const [name, value] of Object.entries({ x: x - layer.reduction / 2, y: y - layer.reduction / 2, width: side, height: side, "stroke-width": thin }))
    $("cell").setAttribute(name, value);
  for (const [name, value] of Object.entries({ cx: x, cy: y, r: 2.5 * thin, "stroke-width": thin / 2 })) $("query").setAttribute(name, value);
  let best = { weight: -1 };
  for (const item of circles) {
    const weight = weightOf(item.group, item.key, query);
    if (weight > best.weight) best = { ...item, weight };
    item.circle.setAttribute("r", Math.max(item.least, Math.sqrt((weight * AREA) / Math.PI)));
    item.circle.setAttribute("fill-opacity", Math.min(1, 0.3 + 0.7 * weight * circles.length / 4));
  }
  const [row, column] = [Math.floor(query / layer.columns) + 1, (query % layer.columns) + 1];
  $("reading").textContent =
    `Query in row ${row}, column ${column} of ${layer.rows} x ${layer.columns}${state.held ? ", fixed" : ""}. Largest weight of ` +
    `${circles.length} keys: ${percent(best.weight)}, group ${best.group + 1}, at pixel ${best.x.toFixed(0)}, ${best.y.toFixed(0)}.`;
}

/** Attention that each cell receives from all queries (selected groups and heads), distributed as in bilinear sampling. */
function drawHeat() {
  $("heat").style.display = $("showHeat").checked ? "" : "none";
  if (!$("showHeat").checked) return;
  const [rows, columns] = layer.size, queries = layer.rows * layer.columns, heat = new Float64Array(rows * columns);
  for (const { group, key, x, y } of circles) {
    let weight = 0;
    for (let query = 0; query < queries; query++) weight += weightOf(group, key, query);
    const cellX = x / layer.reduction - 0.5, cellY = y / layer.reduction - 0.5;
    for (const [dy, dx] of [[0, 0], [0, 1], [1, 0], [1, 1]]) {
      const row = Math.floor(cellY) + dy, column = Math.floor(cellX) + dx;
      if (row < 0 || column < 0 || row >= rows || column >= columns) continue;
      heat[row * columns + column] += (weight * (1 - Math.abs(cellY - row)) * (1 - Math.abs(cellX - column))) / queries;
    }
  }
  const canvas = Object.assign(document.createElement("canvas"), { width: columns, height: rows });
  const context = canvas.getContext("2d"), pixels = context.createImageData(columns, rows), most = Math.max(...heat) || 1;
  heat.forEach((value, place) => pixels.data.set([255, 200 * (value / most) ** 2, 40 * (1 - value / most), 255 * (value / most)], 4 * place));
  context.putImageData(pixels, 0, 0);
  $("heat").setAttribute("href", canvas.toDataURL());
  const box = { x: 0, y: 0, width: columns * layer.reduction, height: rows * layer.reduction, preserveAspectRatio: "none" };
  for (const [name, value] of Object.entries(box)) $("heat").setAttribute(name, value);
}

// Controls

function options(select, entries, chosen) {
  select.replaceChildren(...entries.map(([value, text]) => new Option(text, value, false, value === chosen)));
  select.disabled = entries.length < 2;
}

function fillControls() {
  layer = layers[state.layer];
  const stages = [...new Set(layers.map((item) => item.stage))];
  options($("stageChoice"), stages.map((stage) => [stage, `${stage}`]), layer.stage);
  const blocks = layers.flatMap((item, place) => (item.stage === layer.stage ? [[place, `block ${item.block}`]] : []));
  options($("layerChoice"), blocks, state.layer);
  const count = (number, all, word) => [[-1, all], ...[...Array(number).keys()].map((i) => [i, `${word} ${i + 1}`])];
  state.group = Math.min(state.group, layer.groups - 1);
  options($("groupChoice"), layer.groups > 1 ? count(layer.groups, "all groups", "group") : [[-1, "single"]], state.group);
  const heads = layer.heads / layer.groups;
  state.head = Math.min(state.head, heads - 1);
  const mean = layer.averaged ? "mean of all (as stored)" : heads > 1 ? "mean of each group's" : "single";
  options($("headChoice"), heads > 1 ? count(heads, mean, "head") : [[-1, mean]], state.head);
  drawLayer();
}

$("stageChoice").addEventListener("change", (event) => {
  state.layer = layers.findLastIndex((item) => item.stage === Number(event.target.value));
  fillControls();
});
for (const [id, name] of [["layerChoice", "layer"], ["groupChoice", "group"], ["headChoice", "head"]])
  $(id).addEventListener("change", (event) => {
    state[name] = Number(event.target.value);
    fillControls();
  });

function showParts() {
  $("grid").style.display = $("showGrid").checked ? "" : "none";
  $("arrows").style.display = $("showArrows").checked ? "" : "none";
  $("shade").setAttribute("opacity", 1 - $("brightness").value / 100);
  drawHeat();
}
for (const id of ["showGrid", "showArrows", "showHeat", "brightness"]) $(id).addEventListener("input", showParts);

// Pointer and keyboard

function move(event) {
  const matrix = $("stage").getScreenCTM();
  state.x = (event.clientX - matrix.e) / matrix.a;
  state.y = (event.clientY - matrix.f) / matrix.d;
  drawQuery();
}
$("stage").addEventListener("pointermove", (event) => {
  if (!state.held || event.buttons) move(event);
});
$("stage").addEventListener("pointerdown", (event) => {
  const before = query;
  move(event);
  state.held = !(state.held && query === before);
  drawQuery();
});
$("stage").addEventListener("keydown", (event) => {
  const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
  if (step) {
    const [x, y] = middle(query), side = layer.reduction * layer.step;
    state.x = Math.min(Math.max(x + step[0] * side, 0), width - 0.01);
    state.y = Math.min(Math.max(y + step[1] * side, 0), height - 0.01);
    state.held = true;
  } else if (event.key === "Enter" || event.key === " ") state.held = !state.held;
  else if (event.key === "Escape") state.held = false;
  else return;
  event.preventDefault();
  drawQuery();
});

// Start

$("stage").setAttribute("viewBox", `0 0 ${width} ${height}`);
$("stage").style.setProperty("--ratio", width / height);
$("stage").classList.toggle("sharp", Math.max(width, height) < 200);
for (const id of ["picture", "shade"]) {
  $(id).setAttribute("width", width);
  $(id).setAttribute("height", height);
}
$("picture").setAttribute("href", data.image);
$("predictions").append(...data.predictions.map(([name, share]) => {
  const item = document.createElement("li"), value = document.createElement("span"), bar = document.createElement("b");
  value.textContent = percent(share);
  bar.style.width = `${100 * share}%`;
  item.dir = "auto"; // class names may be written from right to left
  item.append(name, value, bar);
  return item;
}));
fillControls();
showParts();
