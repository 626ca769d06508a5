// Pictures with activation maps.

import { heat } from "./colors.js";

const LARGEST_SIDE = 800; // pixels on the canvas
const OPACITY = 190; // of the map, where it is largest

/** Returns a picture to draw, or null if the browser cannot decode it. */
export async function decodePicture(file, turnByExif = true) {
  const imageOrientation = turnByExif ? "from-image" : "none";
  return createImageBitmap(file, { imageOrientation }).catch(() => null);
}

/**
 * Draws a picture, and a map over the square in its middle.
 * The map is a grid of numbers, or null; cropPct is the size of the square, as part of the short side.
 */
export function drawPicture(canvas, picture, map = null, cropPct = 1) {
  const scale = Math.min(1, LARGEST_SIDE / Math.max(picture.width, picture.height));
  canvas.width = Math.round(scale * picture.width);
  canvas.height = Math.round(scale * picture.height);
  const context = canvas.getContext("2d");
  context.imageSmoothingQuality = "high";
  context.drawImage(picture, 0, 0, canvas.width, canvas.height);
  if (!map) return;
  const side = cropPct * Math.min(canvas.width, canvas.height);
  const left = (canvas.width - side) / 2;
  const top = (canvas.height - side) / 2;
  context.drawImage(mapImage(map), left, top, side, side);
  context.strokeStyle = "rgb(255 255 255 / 70%)";
  context.strokeRect(left, top, side, side);
}

/** Returns a canvas with one pixel for each number; small numbers are transparent. */
function mapImage(map) {
  const canvas = new OffscreenCanvas(map[0].length, map.length);
  const numbers = map.flat();
  const least = Math.min(...numbers);
  const range = Math.max(...numbers) - least || 1;
  const pixels = numbers.flatMap((x) => {
    const value = (x - least) / range;
    return heat(0.35 + 0.65 * value, OPACITY * value);
  });
  const image = new ImageData(new Uint8ClampedArray(pixels), canvas.width, canvas.height);
  canvas.getContext("2d").putImageData(image, 0, 0);
  return canvas;
}
