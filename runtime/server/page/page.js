// The page: asks what the server's model takes, sends what people choose, and shows pictures while they are made.

import { Board } from "/page/drawing.js";

const $ = (id) => document.getElementById(id);
const PALETTE = [
  "#87b5e8", "#f3f5f7", "#3d77b6", "#e5cf93", "#8bbb58", "#3f6f3d", "#8c8378", "#e4edf6", "#ffd54a", "#b0563f", "#6a4f9c",
  "#d87cac", "#2a9d8f", "#e07a2d", "#444c5c", "#c3d35c", "#7f2f4f", "#52b0c9",
];
const DEPTHS = [255, 224, 192, 160, 128, 96, 64, 32, 0];
const LARGEST_MASK = 512; // pixels of a side that masks are painted at
const state = { model: null, chosen: null, board: null, mask: null, init: null, running: null };

const rgb = (hex) => [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));
const colourOf = (label) => rgb(PALETTE[label] ?? `#${((label * 2654435761) >>> 8 & 0xffffff).toString(16).padStart(6, "0")}`);

function say(text, bad = false) {
  $("message").textContent = text;
  $("message").classList.toggle("bad", bad);
}

// --- the server ------------------------------------------------------------------------------------------------------

async function ask(path, options = {}) {
  for (;;) {
    const key = sessionStorage.getItem("key");
    const headers = key ? { Authorization: `Bearer ${key}` } : {};
    const answer = await fetch(path, { ...options, headers });
    if (answer.ok) return answer;
    if (answer.status !== 401) {
      const body = await answer.json().catch(() => ({}));
      throw new Error(body.error?.message ?? `the server answered ${answer.status}`);
    }
    const dialog = $("key");
    dialog.showModal();
    await new Promise((closed) => dialog.addEventListener("close", closed, { once: true }));
    sessionStorage.setItem("key", $("key-text").value);
  }
}

async function* events(answer) {
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const blocks = (text + value).split("\n\n");
    text = blocks.pop();
    for (const block of blocks) {
      const lines = Object.fromEntries(block.split("\n").map((line) => line.split(/: (.*)/s).slice(0, 2)));
      if (lines.event) yield [lines.event, JSON.parse(lines.data)];
    }
  }
}

// --- what the model takes ----------------------------------------------------------------------------------------------

function chips(place, entries, choose) {
  place.replaceChildren(
    ...entries.map(({ value, text, colour }, i) => {
      const button = Object.assign(document.createElement("button"), { type: "button", textContent: text });
      button.setAttribute("role", "radio");
      button.setAttribute("aria-checked", String(i === 0));
      if (colour) {
        const dot = document.createElement("i");
        dot.style.background = colour;
        button.prepend(dot);
      }
      button.onclick = () => {
        for (const other of place.children) other.setAttribute("aria-checked", String(other === button));
        choose(value);
      };
      return button;
    }),
  );
}

function showMap(model, field) {
  const side = model.resolution;
  $("condition-map").hidden = false;
  $("map-legend").textContent = { segmentation: "Label map", depth: "Depth map", image: "Picture" }[field];
  if (field === "image") return showTab("upload");
  const isDepth = field === "depth";
  const numbers = isDepth ? DEPTHS : [...Array(model.condition.labels).keys()];
  const colours = isDepth
    ? Array.from({ length: 256 }, (_, grey) => [grey, grey, grey, 255])
    : Array.from({ length: 256 }, (_, label) => [...colourOf(label), 255]);
  const board = (state.board = new Board($("map"), { width: side, height: side, colours }));
  if (isDepth) {
    for (let y = 0; y < side; y++) board.fill(0, y, side, y + 1, Math.round((255 * y) / side));
  } else {
    board.fill(0, 0, side, side, 0);
    board.fill(0, side * 0.55, side, side, Math.min(4, numbers.length - 1));
  }
  board.value = numbers[0];
  board.brush = Number($("map-brush").value);
  const names = model.condition.label_names;
  chips(
    $("palette"),
    numbers.map((value) => ({
      value,
      text: isDepth ? { 255: "near", 0: "far" }[value] ?? "" : names?.[value] ?? String(value),
      colour: `rgb(${colours[value].slice(0, 3)})`,
    })),
    (value) => (board.value = value),
  );
  $("map-brush").oninput = (event) => (board.brush = Number(event.target.value));
  $("map-undo").onclick = () => board.undo();
  $("map-fill").onclick = () => {
    board.remember();
    board.fill(0, 0, side, side);
  };
}

function showTab(name) {
  for (const tab of ["draw", "upload"]) {
    $(tab).hidden = tab !== name;
    $(`tab-${tab}`).setAttribute("aria-selected", String(tab === name));
  }
}

function show(model) {
  state.model = model;
  const condition = model.condition;
  $("about").textContent = `bundle ${model.id} · ${model.backend} · ${model.precision}`;
  if (!model.generates) return say("This bundle is an autoencoder alone: it encodes and decodes, at /v1.", true);
  if (condition.classes.length) {
    const entries = condition.classes.map((text, value) => ({ text, value }));
    const real = entries.filter(({ value }) => value !== condition.null_class);
    $("condition-class").hidden = false;
    state.chosen = real[0].value;
    chips($("classes"), real, (value) => (state.chosen = value));
  } else if (["segmentation", "depth", "image"].includes(condition.field)) {
    showMap(model, condition.field);
  } else if (condition.field === "layout") {
    $("condition-layout").hidden = false;
  }
  $("guidance-label").hidden = !model.guidance;
  $("n").max = model.limits.pictures;
  $("temperature").value = model.sampling.temperature;
  $("top_k").value = model.sampling.top_k ?? "";
  $("top_p").value = model.sampling.top_p ?? "";
  for (const side of ["width", "height"]) {
    Object.assign($(side), { value: model.resolution, min: model.resolution, step: model.factor, max: 4096 });
  }
  $("go").disabled = false;
}

// --- completion ----------------------------------------------------------------------------------------------------------

async function complete(blob) {
  const picture = await createImageBitmap(blob);
  const scale = Math.min(1, LARGEST_MASK / Math.max(picture.width, picture.height));
  const width = Math.max(1, Math.round(picture.width * scale));
  const height = Math.max(1, Math.round(picture.height * scale));
  $("masking").hidden = false;
  $("completion").open = true;
  const canvas = new OffscreenCanvas(width, height); // the picture as large as its mask
  canvas.getContext("2d").drawImage(picture, 0, 0, width, height);
  state.init = await canvas.convertToBlob({ type: "image/png" });
  const board = (state.mask = new Board($("mask"), { width, height, colours: [[0, 0, 0, 0], [226, 62, 87, 150]] }));
  board.background = picture;
  board.value = 1;
  setBrush();
  board.show();
}

function setBrush() {
  if (state.mask) state.mask.brush = (Number($("mask-brush").value) / 128) * Math.max(state.mask.width, state.mask.height);
}

function paintHalf(half) {
  const { width, height } = state.mask;
  const [left, right] = { left: [0, width / 2], right: [width / 2, width] }[half] ?? [0, width];
  const [top, bottom] = { top: [0, height / 2], bottom: [height / 2, height] }[half] ?? [0, height];
  state.mask.remember();
  state.mask.fill(left, top, right, bottom, 1);
}

// --- making pictures -------------------------------------------------------------------------------------------------------

async function body() {
  const form = new FormData();
  const condition = state.model.condition;
  if (state.chosen !== null) form.append("class", state.chosen);
  if (condition.field === "layout") form.append("layout", $("layout").value);
  if (!$("condition-map").hidden) {
    const drawn = $("upload").hidden;
    const file = $("map-file").files[0];
    if (!drawn && !file) throw new Error("choose a map first");
    form.append(condition.field, drawn ? await state.board.png() : file, "map.png");
  }
  if (state.init) {
    if (!state.mask.values.includes(1)) throw new Error("paint over what is to be made anew first");
    form.append("init", state.init, "init.png");
    form.append("mask", await state.mask.png((value) => (value ? 0 : 255)), "mask.png");
    form.append("paste", $("paste").checked);
  }
  for (const name of ["n", "seed", "temperature", "top_k", "top_p"]) if ($(name).value) form.append(name, $(name).value);
  if (!$("guidance-label").hidden && $("guidance").value !== "1") form.append("guidance", $("guidance").value);
  const size = `${$("width").value}x${$("height").value}`;
  if (size !== `${state.model.resolution}x${state.model.resolution}`) {
    form.append("size", size);
    form.append("window_shift", 4);
  }
  form.append("greedy", $("greedy").checked);
  form.append("stream", true);
  return form;
}

function newFigure(caption) {
  const figure = document.createElement("figure");
  figure.className = "making";
  figure.innerHTML = '<button type="button"><img alt=""></button><figcaption><span></span></figcaption>';
  figure.querySelector("span").textContent = caption;
  return figure;
}

function finish(figure, made, seed) {
  const caption = [made.class_name, `seed ${seed}`, made.picture ? `no. ${made.picture}` : ""].filter(Boolean).join(" · ");
  const image = figure.querySelector("img");
  figure.classList.remove("making");
  image.src = made.image;
  image.alt = caption;
  figure.querySelector("span").textContent = caption;
  figure.querySelector("button").onclick = () => {
    Object.assign($("large").querySelector("img"), { src: made.image, alt: caption });
    $("large").querySelector("p").textContent = caption;
    $("large").showModal();
  };
  const again = Object.assign(document.createElement("button"), { type: "button", textContent: "complete" });
  again.onclick = async () => complete(await blobOf(made.image));
  const save = Object.assign(document.createElement("a"), { href: made.image, download: `${seed}-${made.picture}.png`, textContent: "save" });
  figure.querySelector("figcaption").append(again, save);
}

async function blobOf(url) {
  const [head, data] = url.split(",");
  const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
  return new Blob([bytes], { type: head.slice(5, head.indexOf(";")) });
}

async function generate() {
  const running = (state.running = new AbortController());
  const figures = [];
  const done = [];
  let total = 1;
  try {
    const answer = await ask("/v1/generate", { method: "POST", body: await body(), signal: running.signal });
    for await (const [name, data] of events(answer)) {
      if (name === "accepted") {
        $("empty").hidden = true;
        for (let i = 0; i < data.n; i++) figures.push(newFigure("being made …"));
        $("gallery").prepend(...figures);
        state.seed = data.seed;
        say(data.batched ? "" : `Made by itself: ${data.why_not_batched}.`);
      } else if (name === "preview") {
        figures[data.index].querySelector("img").src = data.image;
        done[data.index] = data.done;
        total = data.total;
      } else if (name === "picture") {
        finish(figures[data.index], data, state.seed);
        done[data.index] = total = data.codes.length * data.codes[0].length;
      } else if (name === "error") {
        throw new Error(data.message);
      } else if (name === "done") {
        say(data.n === 1 ? "1 picture." : `${data.n} pictures.`);
      }
      $("progress").value = done.reduce((sum, codes) => sum + (codes ?? 0), 0) / (total * figures.length || 1);
    }
  } catch (error) {
    if (error.name === "AbortError") say("Stopped.");
    else say(error.message, true);
  } finally {
    for (const figure of figures) if (figure.classList.contains("making")) figure.remove();
    $("empty").hidden = $("gallery").querySelector("figure") !== null;
  }
}

$("form").onsubmit = async (event) => {
  event.preventDefault();
  say("");
  $("go").disabled = true;
  $("stop").hidden = $("progress").hidden = false;
  $("progress").value = 0;
  await generate();
  $("go").disabled = false;
  $("stop").hidden = $("progress").hidden = true;
};
$("stop").onclick = () => state.running?.abort();
$("dice").onclick = () => ($("seed").value = Math.floor(Math.random() * 1e9));
$("tab-draw").onclick = () => state.board && showTab("draw");
$("tab-upload").onclick = () => showTab("upload");
$("map-file").onchange = (event) => ($("map-file-name").textContent = event.target.files[0]?.name ?? "Choose a map");
$("init-file").onchange = (event) => event.target.files[0] && complete(event.target.files[0]).catch(() => say("This is no picture that the browser can read.", true));
$("mask-brush").oninput = setBrush;
$("mask-undo").onclick = () => state.mask.undo();
$("mask-remove").onclick = () => {
  state.init = state.mask = null;
  $("masking").hidden = true;
  $("init-file").value = "";
};
for (const button of document.querySelectorAll("[data-half]")) button.onclick = () => paintHalf(button.dataset.half);

$("go").disabled = true;
ask("/v1/models")
  .then((answer) => answer.json())
  .then(({ models }) => show(models[0]))
  .catch((error) => say(error.message, true));
