"""Makes odd but valid sound files and compares what is read of them with the plain files.

    python tests/fuzz/sounds.py [--minutes M] [--seed N]

A file that is read wrongly is kept in the current folder, and the exit code is 1.
"""

import argparse
import random
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.support import odd_sounds as odd
from tools.speech import audio
from tools.speech.containers import quiet_stderr

RATES_HZ = (8000, 11025, 16000, 22050, 44100, 48000)
OPUS_RATES_HZ = (8000, 12000, 16000, 24000, 48000)
FEWEST, MOST = 3000, 30000  # samples of a plain sound
MP3_TOLERANCE = 2e-6  # mpg123 rounds by the size of the request


@dataclass(frozen=True)
class OddSound:
    """A file and what must be read of it.

    Attributes:
        name: what is odd about it.
        data: the file.
        rate_hz: of the sound.
        num_samples: of all of it.
        known: places and samples there.
        tolerance: of samples.
    """

    name: str
    data: bytes
    rate_hz: int
    num_samples: int
    known: tuple[tuple[int, np.ndarray], ...]
    tolerance: float = 0.0


def whole(name: str, data: bytes, rate_hz: int, samples: np.ndarray, tolerance=0.0) -> OddSound:
    """Makes a case of which every sample is known."""
    return OddSound(name, data, rate_hz, len(samples), ((0, samples),), tolerance)


def plain(rng: random.Random, num_channels: int, fewest: int = FEWEST) -> np.ndarray:
    """Makes a sound to encode."""
    return odd.voice(rng.randrange(fewest, MOST), num_channels, rng.randrange(1 << 30))


def odd_wav(rng: random.Random) -> OddSound:
    """A WAV with other chunks, sizes that are wrong, junk behind it, or others behind it."""
    rate_hz, num_channels = rng.choice(RATES_HZ), rng.choice((1, 2, 3))
    encoding = rng.choice(("PCM_16", "PCM_16", "PCM_24", "PCM_U8", "FLOAT", "ULAW"))
    made, samples = [], []
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        data = odd.encode(plain(rng, num_channels), rate_hz, "WAV", encoding)
        chunks = odd.wav_chunks(data)
        samples.append(odd.decode(data))
        before = [
            (rng.choice((b"LIST", b"JUNK", b"bext", b"PAD ")), rng.randbytes(rng.randrange(60)))
            for _ in range(rng.randrange(3))
        ]
        behind = [(b"LIST", rng.randbytes(rng.randrange(60))) for _ in range(rng.randrange(3))]
        made.append(
            {"fmt": chunks[b"fmt "], "samples": chunks[b"data"], "before": before, "behind": behind}
        )
    last, name = made[-1], rng.choice(("plain", "streamed", "size 0", "junk", "junk"))
    sizes = {}
    if name in ("streamed", "size 0"):
        last["behind"] = []
        last["samples"] = last["samples"][: len(last["samples"]) // 2 * 2]
        size = 0 if name == "size 0" else rng.choice((0xFFFFFFFF, 0x7FFFF000))
        sizes = {"data_bytes": size, "riff_bytes": rng.choice((size, 0, 0xFFFFFFFF))}
        frame_bytes = int.from_bytes(last["fmt"][12:14], "little")
        num_frames = len(last["samples"]) // frame_bytes
        samples[-1] = samples[-1][:num_frames]
    data = b"".join(odd.wav(**x, **(sizes if x is last else {})) for x in made)
    if name == "junk":
        data += b"\0" * rng.randrange(100)
    joined = np.concatenate(samples)
    return whole(f"WAV {encoding} x {len(made)}, {name}", data, rate_hz, joined)


def odd_flac(rng: random.Random) -> OddSound:
    """A FLAC with metadata and tags, of unknown length, or with others behind it."""
    rate_hz, num_channels = rng.choice(RATES_HZ), rng.choice((1, 2))
    encoding = rng.choice(("PCM_16", "PCM_16", "PCM_24"))
    made, samples, names = [], [], set()
    count = rng.choice((1, 1, 2, 3))
    same = rng.random() < 0.5
    for number in range(count):
        if not (same and number):
            level = rng.choice((0.0, 0.5, 1.0))
            sound = plain(rng, num_channels) * rng.choice((1.0, 0.01, 0.0))
            data = odd.encode(sound, rate_hz, "FLAC", encoding, compression_level=level)
            samples.append(odd.decode(data))
            if rng.random() < 0.4:
                data = odd.flac_without_length(data)
                names.add("without length")
            kinds = [
                (rng.choice((1, 2, 6)), rng.randbytes(4) + bytes(rng.randrange(300)))
                for _ in range(rng.randrange(3))
            ]
            data = odd.flac_with_blocks(data, [(1 if k == 6 else k, x) for k, x in kinds])
        else:
            samples.append(samples[-1])
        made.append(data)
    data = b"".join(made)
    if rng.random() < 0.3:
        data = odd.id3v2(rng.randbytes(rng.randrange(300))) + data
        names.add("ID3v2")
    if rng.random() < 0.3:
        data += odd.id3v1()
        names.add("ID3v1")
    title = ", ".join((f"FLAC {encoding} x {count}", *sorted(names)))
    return whole(title, data, rate_hz, np.concatenate(samples))


def odd_mp3(rng: random.Random) -> OddSound:
    """An MP3 with or without the header that tells its length, with tags, or with others behind."""
    rate_hz, num_channels = rng.choice(RATES_HZ), rng.choice((1, 2))
    count, position, known = rng.choice((1, 1, 2, 3)), 0, []
    data, names = b"", set()
    is_open = False  # whether frames that follow at once belong to those before
    for _ in range(count):
        options = {"bitrate_mode": rng.choice(("CONSTANT", "VARIABLE"))}
        sound = plain(rng, num_channels)
        sound[: len(sound) // rng.randrange(2, 9)] *= rng.choice((1.0, 0.001))
        one = odd.encode(sound, rate_hz, "MP3", "MPEG_LAYER_III", **options)
        with quiet_stderr():
            samples = odd.decode(one)
        tag = rng.choice((b"", b"", odd.id3v2(rng.randbytes(rng.randrange(400)))))
        data += tag
        if rng.random() < 0.5:
            one, num_samples = odd.mp3_without_header(one)
            names.add("without header")
            delay = odd.MP3_DECODER_DELAY if is_open and not tag else 0
            skipped = 2 * 1152 if delay else 0  # what was decoded before a frame echoes in it
            start = position + delay + odd.MP3_ENCODER_DELAY + skipped
            known.append((start, samples[skipped:]))
            position, is_open = position + num_samples + delay, True
        else:
            known.append((position, samples))
            position, is_open = position + len(samples), False
        behind = rng.choice((b"", b"", odd.id3v1(), odd.ape(b"x" * rng.randrange(300))))
        data, is_open = data + one + behind, is_open and not behind
    title = ", ".join((f"MP3 x {count}", *sorted(names)))
    return OddSound(title, data, rate_hz, position, tuple(known), MP3_TOLERANCE)


def odd_ogg(rng: random.Random) -> OddSound:
    """An Ogg file of chained streams, of the same or other numbers, with a tag behind it."""
    encoding, num_channels = rng.choice(("VORBIS", "OPUS")), rng.choice((1, 2))
    rate_hz = rng.choice(OPUS_RATES_HZ if encoding == "OPUS" else RATES_HZ)
    made, samples = [], []
    same_number = rng.random() < 0.5
    for _ in range(rng.choice((1, 2, 3))):
        data = odd.encode(plain(rng, num_channels), rate_hz, "OGG", encoding)
        samples.append(odd.decode(data))
        made.append(odd.ogg_with_serial(data, 7 if same_number else rng.randrange(1 << 32)))
    data = b"".join(made) + (odd.id3v1() if rng.random() < 0.2 else b"")
    return whole(f"OGG {encoding} x {len(made)}", data, rate_hz, np.concatenate(samples))


MAKERS = (odd_wav, odd_flac, odd_mp3, odd_ogg)


def odd_sound(seed: int, number: int) -> OddSound:
    """Makes one of the odd files of a seed; every container has its turn."""
    make = MAKERS[number % len(MAKERS)]
    return make(random.Random(f"{seed} {number}"))


def complaint(sound: OddSound, folder: Path) -> str:
    """Reads a file in all ways and says what is wrong; empty: nothing is."""
    path = folder / "odd"
    path.write_bytes(sound.data)
    limits = audio.AudioLimits(rate_hz=sound.rate_hz, max_seconds=600.0)
    try:
        info = audio.probe(path, limits)
        read = audio.read(path, limits)
        streamed = np.concatenate(list(audio.stream(path, limits)))
        from_bytes = audio.read(sound.data, limits)
    except audio.AudioError as error:
        return str(error)
    if info.num_samples != sound.num_samples or len(read) != sound.num_samples:
        return f"{info.num_samples} samples, {len(read)} read, of {sound.num_samples}"
    if abs(info.duration_seconds - sound.num_samples / sound.rate_hz) > 1e-9:
        return f"{info.duration_seconds} s"
    for place, samples in sound.known:
        found = read[place : place + len(samples)]
        difference = np.abs(found - samples[: len(found)]).max()
        if len(found) < len(samples) or not difference <= sound.tolerance:
            return f"samples differ by {difference} from sample {place} on"
    for name, other in (("streamed", streamed), ("read from bytes", from_bytes)):
        if len(other) != len(read) or not np.abs(other - read).max() <= sound.tolerance:
            return f"{name} it differs"
    return ""


def main(arguments: list[str] | None = None) -> int:
    """Makes and reads files for some minutes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    end, num_wrong, count = time.monotonic() + 60 * options.minutes, 0, 0
    with tempfile.TemporaryDirectory() as folder:
        while time.monotonic() < end:
            sound = odd_sound(options.seed, count)
            count += 1
            if said := complaint(sound, Path(folder)):
                num_wrong += 1
                kept = Path(f"odd-{options.seed}-{count - 1}")
                kept.write_bytes(sound.data)
                print(f"{kept}: {sound.name}: {said}")
    print(f"{count} files, {num_wrong} of them read wrongly")
    return 1 if num_wrong else 0


if __name__ == "__main__":
    sys.exit(main())
