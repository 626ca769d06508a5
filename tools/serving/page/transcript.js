// The text of a sound, with its spectrogram and words that play.

import { ask, showFacts } from "./server.js";
import { decode, drawSpectrogram } from "./sound.js";

const MOST_DRAWN_SECONDS = 1800; // decoding more needs much memory
const byId = (id) => document.getElementById(id);
const audio = byId("audio");
const MOST_AFTER_WORD = 0.5; // seconds that are played after a word, up to the next one
let words = [];
let duration = 0;
let stopAt = Infinity; // seconds: the end of the word that is played

/** Sends a sound to a model and shows the text. */
export async function showSpeech(file, model, signal) {
  const started = performance.now();
  const fields = {
    file,
    model: model.id,
    response_format: "verbose_json",
    "timestamp_granularities[]": "word",
  };
  const found = await ask("v1/audio/transcriptions", { fields, signal });
  const seconds = (performance.now() - started) / 1000;
  const samples = found.duration <= MOST_DRAWN_SECONDS ? await decode(file) : null;
  if (signal.aborted) return;
  byId("speech").hidden = false;
  byId("text").textContent = found.text || "No words were recognized.";
  byId("speech-note").textContent = "";
  showFacts(byId("speech").querySelector(".facts"), model, seconds);
  ({ words, duration } = found);
  showWords();
  showSound(file);
  byId("spectrogram").hidden = !samples;
  if (!samples) return;
  byId("duration").textContent = `${duration.toFixed(1)} s`;
  byId("canvas").setAttribute("aria-label", `Spectrogram of ${duration.toFixed(1)} seconds`);
  drawSpectrogram(byId("canvas"), samples);
}

function showWords() {
  byId("words-title").hidden = !words.length;
  byId("words").replaceChildren(
    ...words.map((word, n) => {
      const item = document.createElement("li");
      const button = document.createElement("button");
      const time = document.createElement("small");
      const [start, end] = [word.start, word.end].map((x) => x.toFixed(2));
      time.textContent = `${start}–${end}`;
      button.append(word.word, time);
      button.type = "button";
      button.setAttribute("aria-label", `Play ${word.word}, from ${start} to ${end} seconds`);
      button.addEventListener("click", () => {
        // A model often places the end of a word before the sound of the word has ended.
        play(word.start, Math.min(words[n + 1]?.start ?? duration, word.end + MOST_AFTER_WORD));
      });
      item.append(button);
      return item;
    }),
  );
}

function showSound(file) {
  URL.revokeObjectURL(audio.src);
  audio.hidden = false;
  audio.src = URL.createObjectURL(file);
}

async function play(start, end = Infinity) {
  audio.pause();
  audio.currentTime = start;
  stopAt = end;
  await audio.play().catch(() => {}); // the sound was replaced, or its error is shown
}

/** Moves the line over the spectrogram and marks the word that is heard. */
function follow() {
  const time = audio.currentTime;
  if (time >= stopAt) audio.pause();
  byId("playhead").style.left = `${(100 * time) / duration}%`;
  const heard = audio.paused ? -1 : words.findIndex(({ start, end }) => start <= time && time < end);
  [...byId("words").children].forEach((item, n) => item.classList.toggle("heard", n === heard));
  const { start = 0, end = 0 } = words[heard] ?? {};
  byId("current-word").style.left = `${(100 * start) / duration}%`;
  byId("current-word").style.width = `${(100 * (end - start)) / duration}%`;
  if (!audio.paused) requestAnimationFrame(follow);
}

audio.addEventListener("play", follow);
audio.addEventListener("seeked", follow);
audio.addEventListener("pause", () => {
  stopAt = Infinity;
  follow();
});
audio.addEventListener("error", () => {
  audio.hidden = true;
  byId("speech-note").textContent = "This browser cannot play the file.";
  byId("words").querySelectorAll("button").forEach((button) => (button.disabled = true));
});
byId("plot").addEventListener("click", ({ offsetX }) => {
  play((offsetX / byId("plot").clientWidth) * duration);
});
