// The colors of spectrograms and activation maps.

const STOPS = [
  [15, 17, 38],
  [62, 42, 120],
  [170, 55, 110],
  [243, 135, 75],
  [254, 243, 196],
];

/** Returns red, green, blue and opacity (0 to 255) of a value from 0 (dark) to 1 (bright). */
export function heat(value, opacity = 255) {
  const place = Math.max(0, Math.min(1, value)) * (STOPS.length - 1);
  const n = Math.min(Math.floor(place), STOPS.length - 2);
  return [...STOPS[n].map((low, k) => low + (place - n) * (STOPS[n + 1][k] - low)), opacity];
}
