// The page: sends a sound or a picture to the server and shows its answer.

import { ask, keyForm, ServerError } from "./server.js";
import { showPicture } from "./classes.js";
import { record } from "./sound.js";
import { showSpeech } from "./transcript.js";

const MOST_SECONDS = 600; // of a recording
const TASKS = { transcribe: "Speech", classify: "Pictures" };
const byId = (id) => document.getElementById(id);
let models = [];
let running = new AbortController(); // of the request whose answer is awaited
let recording = null;

/** Does one thing and shows its error. A later call takes its place. */
async function attempt(action) {
  running.abort();
  running = new AbortController();
  const { signal } = running;
  byId("error").textContent = "";
  try {
    await action(signal);
  } catch (error) {
    if (signal.aborted) return;
    byId("status").textContent = "";
    byId("error").textContent = error.message;
    if (error.status === 401) keyForm(() => attempt(action));
    else if (!(error instanceof ServerError)) console.error(error);
  }
}

async function listModels(signal) {
  models = (await ask("v1/models", { signal })).data;
  const chosen = chosenModels();
  byId("models").replaceChildren();
  for (const [task, title] of Object.entries(TASKS)) {
    const able = models.filter((model) => model.task === task);
    if (able.length) byId("models").append(modelField(task, title, able, chosen[task]));
  }
  byId("record").hidden = !models.some((model) => model.task === "transcribe");
}

/** Returns the names of the chosen models by task. */
function chosenModels() {
  const fields = [...byId("models").querySelectorAll("select")];
  return Object.fromEntries(fields.map((field) => [field.name, field.value]));
}

function modelField(task, title, able, chosen) {
  const field = document.createElement("label");
  const select = document.createElement("select");
  select.name = task;
  select.append(...able.map(({ id }) => new Option(id, id, false, id === chosen)));
  field.append(`${title} `, select);
  return field;
}

/** Sends a file to the model that can read it and shows the answer. */
async function answer(file, signal) {
  const isPicture = file.type.startsWith("image/");
  const task = isPicture ? "classify" : "transcribe";
  byId("speech").hidden = byId("picture").hidden = true;
  byId("audio").pause();
  byId("status").textContent = `Reading ${file.name} …`;
  await listModels(signal); // a new version may have come
  const model = models.find(({ id }) => id === chosenModels()[task]);
  if (!model) throw new ServerError(`This server has no model that can ${task}.`);
  await (isPicture ? showPicture : showSpeech)(file, model, signal);
  byId("status").textContent = `Answer for ${file.name}`;
}

const send = (file) => file && attempt((signal) => answer(file, signal));

async function startRecording() {
  recording = await record();
  byId("record").textContent = "Stop";
  byId("recording").hidden = false;
  byId("status").textContent = "Recording. Press Stop at the end.";
  const tick = () => {
    if (!recording) return;
    byId("seconds").textContent = `${recording.seconds.toFixed(1)} s`;
    byId("level").value = recording.level;
    if (recording.seconds >= MOST_SECONDS) stopRecording();
    else setTimeout(tick, 100);
  };
  tick();
}

async function stopRecording() {
  const ended = recording;
  recording = null;
  byId("record").textContent = "Record";
  byId("recording").hidden = true;
  send(await ended.stop());
}

byId("record").addEventListener("click", async ({ currentTarget }) => {
  if (recording) return stopRecording();
  currentTarget.disabled = true; // until the user has allowed the microphone
  await attempt(startRecording);
  currentTarget.disabled = false;
});

byId("file").addEventListener("change", ({ target }) => {
  send(target.files[0]);
  target.value = ""; // so that the same file can be chosen again
});

const input = byId("input");
document.addEventListener("dragover", (event) => {
  event.preventDefault();
  input.classList.add("dragged");
});
document.addEventListener("dragleave", () => input.classList.remove("dragged"));
document.addEventListener("drop", (event) => {
  event.preventDefault();
  input.classList.remove("dragged");
  send(event.dataTransfer.files[0]);
});

attempt(listModels);
