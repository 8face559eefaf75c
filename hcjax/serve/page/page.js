"use strict";
// The page of a server: an image is drawn or chosen, and goes to every network as a PNG file.
const $ = id => document.getElementById(id);
const pad = $("pad"), map = $("map"), pen = pad.getContext("2d", { willReadFrequently: true });
const WIDTH = 22;
let models = [], drawn = false, photo = null, timer = 0, asked = 0, down = null;
let cursor = { x: 140, y: 140, down: false };

const token = () => sessionStorage.getItem("token");

async function ask(path, body, type) {
  const headers = token() ? { authorization: `Bearer ${token()}` } : {};
  if (type) headers["content-type"] = type;
  const reply = await fetch(path, { method: body ? "POST" : "GET", body, headers });
  if (reply.status === 401) { $("door").hidden = false; document.querySelector("main").hidden = true; throw new Error(token() ? "This token is wrong." : ""); }
  const said = await reply.json();
  if (!reply.ok) throw new Error(said.error);
  return said;
}

function size(bytes) {
  return bytes < 1e4 ? `${bytes} bytes` : bytes < 1e6 ? `${(bytes / 1e3).toFixed(1)} kB` : `${(bytes / 1e6).toFixed(2)} MB`;
}

function element(tag, text, name) {
  const found = document.createElement(tag);
  if (text !== undefined) found.textContent = text;
  if (name) found.className = name;
  return found;
}

const path = model => `/v2/models/${encodeURIComponent(model.name)}/versions/${model.parameters.version}`;
const title = model => model.name + (model.versions.length > 1 ? `, version ${model.parameters.version}` : "");

async function start() {
  const found = await ask("/v2/models");
  $("door").hidden = true; document.querySelector("main").hidden = false; $("problem").textContent = "";
  models = found.models.filter(m => m.parameters.image_shape && m.parameters.logits);
  $("answers").replaceChildren();
  for (const model of models) {
    const card = element("article"), facts = model.parameters;
    model.answer = element("p", "–", "answer"); model.list = element("ol"); model.time = element("span");
    const line = element("p", `${facts.integers ? "integers" : "float"} · ${size(facts.bytes)}`, "facts");
    line.append(model.time);
    card.append(element("h2", title(model)), model.answer, line, model.list);
    $("answers").append(card);
    blank(model);
  }
  if (!models.length) $("problem").textContent = "No network of this server takes images and gives classes.";
  const explained = models.filter(m => m.parameters.explains);
  $("by").replaceChildren(...explained.map(m => new Option(title(m), models.indexOf(m))));
  $("by").hidden = explained.length < 2;
  $("why").disabled = !explained.length;
  $("why").parentElement.title = explained.length ? "gradient × input" : "only networks in float have gradients";
}

// Digits of data sets fill 20 of 28 pixels, with their centre of mass in the middle.
function centred(height, width) {
  const side = pad.width, pixels = pen.getImageData(0, 0, side, side).data;
  let [left, top, right, bottom] = [side, side, -1, -1];
  for (let y = 0; y < side; y++) for (let x = 0; x < side; x++) if (pixels[4 * (y * side + x)] > 20) {
    left = Math.min(left, x); right = Math.max(right, x); top = Math.min(top, y); bottom = Math.max(bottom, y);
  }
  if (right < 0) return null;
  const w = right - left + 1, h = bottom - top + 1, scale = Math.min(width, height) * 20 / 28 / Math.max(w, h);
  let mass = 0, mx = 0, my = 0;
  for (let y = top; y <= bottom; y++) for (let x = left; x <= right; x++) {
    const v = pixels[4 * (y * side + x)]; mass += v; mx += v * (x + .5); my += v * (y + .5);
  }
  const at = { x: width / 2 - scale * mx / mass, y: height / 2 - scale * my / mass, scale };
  return [shrunk(pad, side, side, at, width, height), at];
}

// Halves an image until it is near its size, so that no pixel is skipped; then places it.
function shrunk(image, w, h, at, width, height) {
  let scale = at.scale;
  while (scale < .5) {
    const half = new OffscreenCanvas(Math.ceil(w / 2), Math.ceil(h / 2));
    half.getContext("2d").drawImage(image, 0, 0, w / 2, h / 2);
    image = half; w /= 2; h /= 2; scale *= 2;
  }
  const out = new OffscreenCanvas(width, height), to = out.getContext("2d");
  to.fillStyle = "#000"; to.fillRect(0, 0, width, height);
  to.drawImage(image, 0, 0, image.width, image.height, at.x, at.y, image.width * scale, image.height * scale);
  return out;
}

function whole(height, width) {
  const scale = Math.max(width / photo.width, height / photo.height);
  const at = { scale, x: (width - photo.width * scale) / 2, y: (height - photo.height * scale) / 2 };
  return [shrunk(photo, photo.width, photo.height, at, width, height), null];
}

async function look() {
  const turn = ++asked;
  map.getContext("2d").clearRect(0, 0, 280, 280); $("legend").hidden = true;
  if (!drawn) {
    models.forEach(blank);
    return;
  }
  try {
    for (const model of models) {
      const [height, width] = model.parameters.image_shape;
      const ready = photo ? whole(height, width) : centred(height, width);
      if (!ready) return;
      if (photo && $("invert").checked) invert(ready[0]);
      [model.file, model.at] = [await ready[0].convertToBlob({ type: "image/png" }), ready[1]];
    }
    await Promise.all(models.map(async model => {
      const said = await ask(`${path(model)}/infer`, model.file, "image/png");
      if (turn === asked) show(model, said);
    }));
    if ($("why").checked && turn === asked) await explain(turn);
    $("problem").textContent = "";
  } catch (error) { $("problem").textContent = error.message; }
}

function invert(canvas) {
  const to = canvas.getContext("2d");
  to.globalCompositeOperation = "difference"; to.fillStyle = "#fff"; to.fillRect(0, 0, canvas.width, canvas.height);
}

function row(name, share, best) {
  const line = element("li", undefined, best ? "best" : ""), bar = element("i");
  bar.style.width = `${100 * (share ?? 0)}%`;
  line.append(element("span", name), bar, element("span", share === null ? "" : percent(share)));
  return line;
}

// Before an answer a card shows the classes, if they are few, so that nothing moves when it comes.
function blank(model) {
  const names = model.parameters.class_names;
  model.answer.textContent = "–"; model.time.textContent = "";
  model.list.replaceChildren(...(names.length > 10 ? [] : names).map(name => row(name, null, false)));
}

const percent = p => `${(100 * p).toFixed(1)} %`;

function show(model, said) {
  const logits = said.outputs[0].data, most = Math.max(...logits);
  const each = logits.map(x => Math.exp(x - most)), total = each.reduce((a, b) => a + b);
  const shares = each.map(x => x / total), best = shares.indexOf(Math.max(...shares));
  const names = model.parameters.class_names, name = k => names[k] ?? String(k);
  model.answer.replaceChildren(name(best), " ", element("small", percent(shares[best])));
  model.time.textContent = `${said.parameters.milliseconds.toFixed(2)} ms`;
  let order = shares.map((_, k) => k);
  if (order.length > 10) order = order.sort((a, b) => shares[b] - shares[a]).slice(0, 10);
  model.list.replaceChildren(...order.map(k => row(name(k), shares[k], k === best)));
}

async function explain(turn) {
  const model = models[$("by").value], said = await ask(`${path(model)}/explain`, model.file, "image/png");
  if (turn !== asked) return;
  const [height, width] = said.shape, most = Math.max(...said.data.map(Math.abs)) || 1;
  const small = new OffscreenCanvas(width, height), to = small.getContext("2d"), image = to.createImageData(width, height);
  said.data.forEach((v, i) => image.data.set([...(v > 0 ? [255, 90, 54] : [61, 139, 255]), 255 * Math.sqrt(Math.abs(v) / most)], 4 * i));
  to.putImageData(image, 0, 0);
  const on = map.getContext("2d"), at = model.at;
  on.imageSmoothingEnabled = false;
  if (at) on.drawImage(small, -at.x / at.scale, -at.y / at.scale, width / at.scale, height / at.scale);
  else on.drawImage(small, 0, 0, 280, 280);
  $("said").textContent = said.name; $("who").textContent = models.length > 1 ? ` (${title(model)})` : "";
  $("legend").hidden = false;
}

function later() { clearTimeout(timer); timer = setTimeout(look, 120); }

function line(from, to) {
  if (photo) clear();
  pen.strokeStyle = "#fff"; pen.lineWidth = WIDTH; pen.lineCap = pen.lineJoin = "round";
  pen.beginPath(); pen.moveTo(from.x, from.y); pen.lineTo(to.x, to.y); pen.stroke();
  drawn = true; $("hint").hidden = true; map.getContext("2d").clearRect(0, 0, 280, 280); later();
}

function clear() {
  pen.fillStyle = "#000"; pen.fillRect(0, 0, 280, 280);
  drawn = false; photo = null; $("invert").parentElement.hidden = true; $("hint").hidden = false; $("file").value = ""; later();
}

function place(event) {
  const box = pad.getBoundingClientRect();
  return { x: (event.clientX - box.left) * 280 / box.width, y: (event.clientY - box.top) * 280 / box.height };
}

pad.addEventListener("pointerdown", event => {
  try { pad.setPointerCapture(event.pointerId); } catch { /* a pointer made by a script */ }
  down = place(event); line(down, down);
});
pad.addEventListener("pointermove", event => {
  if (down) { const to = place(event); line(down, to); down = to; }
});
for (const name of ["pointerup", "pointercancel"]) pad.addEventListener(name, () => { down = null; });

function mark() {
  const on = map.getContext("2d");
  on.clearRect(0, 0, 280, 280); on.lineWidth = 2; on.strokeStyle = cursor.down ? "#3cc48d" : "#9aa4b0";
  on.beginPath(); on.arc(cursor.x, cursor.y, WIDTH / 2, 0, 7); on.stroke();
}
pad.addEventListener("keydown", event => {
  const step = { ArrowLeft: [-8, 0], ArrowRight: [8, 0], ArrowUp: [0, -8], ArrowDown: [0, 8] }[event.key];
  if (step) {
    const to = { x: Math.min(270, Math.max(10, cursor.x + step[0])), y: Math.min(270, Math.max(10, cursor.y + step[1])) };
    if (cursor.down) line(cursor, to);
    cursor = { ...to, down: cursor.down };
  } else if (event.key === " ") { cursor.down = !cursor.down; if (cursor.down) line(cursor, cursor); }
  else if (event.key === "Delete" || event.key === "Backspace") clear();
  else return;
  event.preventDefault(); mark();
});
pad.addEventListener("blur", () => { if (drawn && !$("legend").hidden) return; map.getContext("2d").clearRect(0, 0, 280, 280); });

async function choose(file) {
  try {
    photo = await createImageBitmap(file);
  } catch { $("problem").textContent = "This file is no image that the browser can read."; return; }
  const scale = Math.max(280 / photo.width, 280 / photo.height);
  pen.fillStyle = "#000"; pen.fillRect(0, 0, 280, 280);
  pen.drawImage(photo, (280 - photo.width * scale) / 2, (280 - photo.height * scale) / 2, photo.width * scale, photo.height * scale);
  drawn = true; $("hint").hidden = true; $("invert").parentElement.hidden = false; later();
}
$("file").addEventListener("change", event => event.target.files[0] && choose(event.target.files[0]));
for (const name of ["dragover", "dragleave", "drop"]) document.addEventListener(name, event => {
  event.preventDefault(); $("board").classList.toggle("over", name === "dragover");
  if (name === "drop" && event.dataTransfer.files[0]) choose(event.dataTransfer.files[0]);
});
$("clear").addEventListener("click", clear);
for (const id of ["invert", "why", "by"]) $(id).addEventListener("change", look);
$("door").addEventListener("submit", event => {
  event.preventDefault(); sessionStorage.setItem("token", $("token").value); begin();
});
function begin() { start().then(look).catch(error => { $("problem").textContent = error.message; }); }
clear(); begin();
