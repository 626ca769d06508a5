// Sound in the browser: recording, WAV files, spectrograms.

import { heat } from "./colors.js";

const RATE_HZ = 16000; // of spectrograms
const WINDOW = 512; // samples: 32 ms
const RANGE_DB = 70;
const MOST_COLUMNS = 1200;

/** Starts to record the microphone; returns the recording. */
export async function record() {
  if (!navigator.mediaDevices) {
    throw new Error("Browsers record only on pages from localhost or https.");
  }
  const audio = { echoCancellation: false, noiseSuppression: false };
  const stream = await navigator.mediaDevices.getUserMedia({ audio }).catch((error) => {
    throw new Error(`The browser cannot use a microphone: ${error.message}.`);
  });
  const context = new AudioContext();
  await context.audioWorklet.addModule(new URL("recorder.js", import.meta.url));
  const mono = { numberOfOutputs: 0, channelCount: 1, channelCountMode: "explicit" };
  const node = new AudioWorkletNode(context, "recorder", mono);
  const blocks = [];
  let numSamples = 0;
  const recording = {
    level: 0, // largest sample of the last block, 0 to 1
    get seconds() {
      return numSamples / context.sampleRate;
    },
    /** Ends the recording; returns it as a WAV file. */
    async stop() {
      stream.getTracks().forEach((track) => track.stop());
      await context.close();
      return new File([wav(blocks, context.sampleRate)], "recording.wav", { type: "audio/wav" });
    },
  };
  node.port.onmessage = ({ data }) => {
    blocks.push(Int16Array.from(data, (x) => 32767 * Math.max(-1, Math.min(1, x))));
    numSamples += data.length;
    recording.level = data.reduce((most, x) => Math.max(most, Math.abs(x)), 0);
  };
  context.createMediaStreamSource(stream).connect(node);
  return recording;
}

/** Returns a WAV file, mono with 16 bits, of blocks of samples. */
export function wav(blocks, rateHz) {
  const numBytes = 2 * blocks.reduce((sum, block) => sum + block.length, 0);
  const header = new DataView(new ArrayBuffer(44));
  const text = (place, letters) =>
    [...letters].forEach((letter, n) => header.setUint8(place + n, letter.charCodeAt(0)));
  text(0, "RIFF");
  header.setUint32(4, 36 + numBytes, true);
  text(8, "WAVEfmt ");
  header.setUint32(16, 16, true); // bytes of the format
  header.setUint16(20, 1, true); // PCM
  header.setUint16(22, 1, true); // channels
  header.setUint32(24, rateHz, true);
  header.setUint32(28, 2 * rateHz, true); // bytes per second
  header.setUint16(32, 2, true); // bytes per sample
  header.setUint16(34, 16, true); // bits per sample
  text(36, "data");
  header.setUint32(40, numBytes, true);
  return new Blob([header, ...blocks]);
}

/** Returns the first channel of a file at 16 kHz, or null if the browser cannot decode it. */
export async function decode(file) {
  const context = new OfflineAudioContext(1, 1, RATE_HZ);
  try {
    return (await context.decodeAudioData(await file.arrayBuffer())).getChannelData(0);
  } catch {
    return null;
  }
}

/** Draws the level of each frequency (0 below, 8 kHz above) over time (left to right). */
export function drawSpectrogram(canvas, samples) {
  const height = WINDOW / 2;
  const width = Math.min(MOST_COLUMNS, Math.ceil(samples.length / 32));
  const window = Float32Array.from({ length: WINDOW }, (_, n) => Math.sin((Math.PI * n) / WINDOW) ** 2);
  const levels = new Float32Array(width * height);
  for (let column = 0; column < width; column++) {
    const middle = Math.floor(((column + 0.5) / width) * samples.length);
    const real = window.map((weight, n) => weight * (samples[middle - WINDOW / 2 + n] ?? 0));
    const imaginary = new Float32Array(WINDOW);
    fourierTransform(real, imaginary);
    for (let bin = 0; bin < height; bin++) {
      const power = real[bin] ** 2 + imaginary[bin] ** 2;
      levels[(height - 1 - bin) * width + column] = 10 * Math.log10(power + 1e-10);
    }
  }
  const loudest = levels.reduce((most, x) => Math.max(most, x), -60);
  canvas.width = width;
  canvas.height = height;
  const context = canvas.getContext("2d");
  const image = context.createImageData(width, height);
  levels.forEach((level, n) => image.data.set(heat(1 + (level - loudest) / RANGE_DB), 4 * n));
  context.putImageData(image, 0, 0);
}

/** Computes the discrete Fourier transform in place; the length is a power of two. */
export function fourierTransform(real, imaginary) {
  const length = real.length;
  for (let i = 1, j = 0; i < length; i++) {
    let bit = length >> 1;
    for (; j & bit; bit >>= 1) j ^= bit;
    j ^= bit;
    if (i < j) {
      [real[i], real[j]] = [real[j], real[i]];
      [imaginary[i], imaginary[j]] = [imaginary[j], imaginary[i]];
    }
  }
  for (let half = 1; half < length; half *= 2) {
    for (let k = 0; k < half; k++) {
      const cosine = Math.cos((Math.PI * k) / half);
      const sine = -Math.sin((Math.PI * k) / half);
      for (let a = k; a < length; a += 2 * half) {
        const b = a + half;
        const x = cosine * real[b] - sine * imaginary[b];
        const y = cosine * imaginary[b] + sine * real[b];
        real[b] = real[a] - x;
        imaginary[b] = imaginary[a] - y;
        real[a] += x;
        imaginary[a] += y;
      }
    }
  }
}
