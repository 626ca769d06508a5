"""Mel filters and the windowed Fourier transform, as NumPy matrices."""

import math

import numpy as np


def mel_filterbank(
    sample_rate_hz: int, fft_length: int, num_mel_bins: int, min_hz: float, *, max_hz: float
) -> np.ndarray:
    """Returns triangular filters of equal area, evenly spaced on Slaney's mel scale.

    Args:
        sample_rate_hz: sample rate.
        fft_length: size of the Fourier transform in samples.
        num_mel_bins: number of filters F.
        min_hz: lower edge of the first filter.
        max_hz: upper edge of the last filter.

    Returns:
        `[fft_length // 2 + 1, num_mel_bins]` float32 weights.

    Source: Slaney, Auditory Toolbox (1998); the default of librosa.filters.mel 0.11.
    """
    hz_per_mel, log_start_hz, log_step = 200.0 / 3.0, 1000.0, math.log(6.4) / 27.0
    log_start_mel = log_start_hz / hz_per_mel

    def to_mel(hz: float) -> float:
        if hz < log_start_hz:
            return hz / hz_per_mel
        return log_start_mel + math.log(hz / log_start_hz) / log_step

    mels = np.linspace(to_mel(min_hz), to_mel(max_hz), num_mel_bins + 2)
    edges_hz = np.where(
        mels < log_start_mel,
        mels * hz_per_mel,
        log_start_hz * np.exp(log_step * (mels - log_start_mel)),
    )
    frequencies_hz = np.arange(fft_length // 2 + 1) * (sample_rate_hz / fft_length)
    distance_hz = frequencies_hz[:, None] - edges_hz[None, :]
    width_hz = np.diff(edges_hz)
    rising = distance_hz[:, :-2] / width_hz[:-1]
    falling = -distance_hz[:, 2:] / width_hz[1:]
    area = 2.0 / (edges_hz[2:] - edges_hz[:-2])
    return (np.maximum(0.0, np.minimum(rising, falling)) * area).astype("float32")


def windowed_dft_basis(
    frame_length: int, fft_length: int, bins: np.ndarray, *, symmetric: bool = False
) -> np.ndarray:
    """Returns the matrix that computes the windowed Fourier transform of a frame.

    The left half of the matrix gives the cosine coefficients, the right half the sine coefficients:
    with `c, s = split(frame @ matrix, 2)`, the power spectrum is `c**2 + s**2`.

    Args:
        frame_length: samples in a frame.
        fft_length: size of the Fourier transform in samples.
        bins: frequency bins to compute, integers in `0..fft_length // 2`.
        symmetric: whether the Hann window is symmetric (its last sample equals its first one)
            instead of periodic.

    Returns:
        `[frame_length, 2 * len(bins)]` float32.
    """
    samples = np.arange(frame_length)
    period = frame_length - 1 if symmetric else frame_length
    window = 0.5 - 0.5 * np.cos(2.0 * np.pi * samples / period)
    angles = (2.0 * np.pi / fft_length) * np.outer(samples, bins)
    basis = np.concatenate([np.cos(angles), np.sin(angles)], axis=1)
    return (window[:, None] * basis).astype("float32")
