// The classes of a picture, with the parts of it that lead to each class.

import { decodePicture, drawPicture } from "./picture.js";
import { ask, showFacts } from "./server.js";

const TOP_K = 5;
const SIGNATURE = "activation_map";
const byId = (id) => document.getElementById(id);

/** Sends a picture to a model and shows the best classes. */
export async function showPicture(file, model, signal) {
  const started = performance.now();
  const fields = { file, model: model.id, top_k: TOP_K };
  const { predictions } = await ask("v1/classify", { fields, signal });
  const seconds = (performance.now() - started) / 1000;
  const picture = await decodePicture(file);
  if (signal.aborted) return;
  byId("picture").hidden = false;
  byId("maps").hidden = true;
  byId("image").hidden = !picture;
  byId("image").setAttribute("aria-label", `The picture ${file.name}`);
  byId("picture-note").textContent = "";
  showFacts(byId("picture").querySelector(".facts"), model, seconds);
  if (picture) drawPicture(byId("image"), picture);
  else byId("picture-note").textContent = "This browser cannot show the file.";
  const hasMaps = picture && model.signatures.includes(SIGNATURE);
  if (picture && !hasMaps) {
    byId("picture-note").textContent =
      "This model draws no activation map. Start the server with --run_eagerly to see one.";
  }
  const choose = hasMaps && ((row) => showMaps(file, model, row, signal));
  byId("classes").replaceChildren(...predictions.map((row) => classItem(row, choose)));
  if (hasMaps) await choose(predictions[0]);
}

/** Returns a line with name, probability and bar; it is a button if a class can be chosen. */
function classItem(row, choose) {
  const item = document.createElement("li");
  const line = document.createElement(choose ? "button" : "div");
  const name = document.createElement("span");
  const percent = document.createElement("span");
  const bar = document.createElement("i");
  name.textContent = row.name;
  percent.textContent = `${(100 * row.probability).toFixed(1)} %`;
  bar.style.width = `${100 * row.probability}%`;
  line.className = "class";
  line.dataset.class = row.class;
  line.append(name, percent, bar);
  if (choose) {
    line.type = "button";
    line.addEventListener("click", () => choose(row).catch(showError));
  }
  item.append(line);
  return item;
}

function showError(error) {
  byId("error").textContent = error.message;
}

/** Shows the activation maps of a class, one at a time. */
async function showMaps(file, model, row, signal) {
  const fields = { file, model: model.id, class: row.class };
  const found = await ask("v1/activation_map", { fields, signal });
  // The map lies over the picture as the model sees it.
  const picture = await decodePicture(file, found.exif_orientation);
  if (signal.aborted) return;
  for (const line of byId("classes").querySelectorAll("button")) {
    line.setAttribute("aria-pressed", line.dataset.class === String(row.class));
  }
  const draw = (name) => {
    drawPicture(byId("image"), picture, found.maps[name], found.crop_pct);
    const what = name ? `with the ${name.replace("_", " ")} for ${row.name}` : "alone";
    byId("image").setAttribute("aria-label", `The picture ${file.name} ${what}`);
  };
  const names = Object.keys(found.maps);
  const chosen = byId("maps").querySelector("input:checked")?.value ?? names[0];
  byId("maps").hidden = false;
  byId("maps").querySelectorAll("label").forEach((label) => label.remove());
  byId("maps").append(...[...names, ""].map((name) => mapChoice(name, name === chosen, draw)));
  draw(chosen);
}

function mapChoice(name, checked, draw) {
  const label = document.createElement("label");
  const choice = document.createElement("input");
  Object.assign(choice, { type: "radio", name: "map", value: name, checked });
  choice.addEventListener("change", () => draw(name));
  label.append(choice, name ? name.replace(/_map$/, "") : "none");
  return label;
}
