"""Log-mel features and SpecAugment as Keras layers without variables."""

import math

import keras
import numpy as np
from keras import ops

from conformer.mel import mel_filterbank, windowed_dft_basis
from conformer.running_statistics import running_statistics
from tools.layers.masking import sequence_mask

_POWER_FLOOR = 1e-10
_RUNNING_POWER_FLOOR = 1e-14  # lower, because these waveforms are not scaled to a peak of 1
_STANDARD_DEVIATION_FLOOR = 1e-5
_DECIBELS_PER_NEPER = 10.0 / math.log(10.0)
_NEMO_POWER_OFFSET = 2.0**-24
# Values of `normalization` by `extractor`.
NORMALIZATIONS = {
    "librosa": ("utterance", "loud_frames", "running_loud_frames"),
    "nemo": ("per_bin", "none"),
}


class LogMelSpectrogram(keras.layers.Layer):
    """Log-mel spectrogram, normalized by the mean and standard deviation of each utterance.

    The steps for each utterance with `extractor="librosa"`:

    1. scale the waveform to a peak of 1 and apply pre-emphasis;
    2. cut centered frames (the waveform is reflected at both of its ends) and apply a Hann window;
    3. compute the power spectrum and apply the mel filters;
    4. convert to decibels and raise all values to at least the maximum minus `top_db`;
    5. subtract the mean and divide by the standard deviation over frames and bins.

    `normalization` selects the frames over which mean and standard deviation are computed:

    - `"utterance"`: all frames. Silence around the speech then changes the features of the speech.
    - `"loud_frames"`: the frames whose loudest bin is at most `loud_frames_db` below the loudest
      bin of the utterance.
    - `"running_loud_frames"`: for each frame, the loud frames up to this frame, see
      `running_statistics`. These features can be computed during recording: the waveform is not
      scaled to its peak, and the maximum of step 4 is the maximum up to this frame.

    With `extractor="nemo"`, features are those of NeMo and of the Parakeet models of Hugging Face:
    the waveform is not scaled and is zero outside the utterance, the Hann window is symmetric, and
    the features are the natural logarithms of the filter outputs plus 2^-24. `normalization` is

    - `"per_bin"`: each bin minus its mean, divided by its standard deviation (with n - 1 in the
      denominator) plus 1e-5, over the valid frames;
    - `"none"`: the logarithms themselves.

    Samples after the end of an utterance have no influence, even if they are NaN. Features of
    padded frames are zero. All computations are in float32 under every dtype policy.

    Output length: `1 + lengths // frame_step`, and 0 for an utterance without samples; with
    `extractor="nemo"`, `lengths // frame_step`.

    Args:
        sample_rate_hz: sample rate of the waveforms.
        frame_length_ms: length of the analysis window.
        frame_step_ms: distance between two frames.
        fft_length: size of the Fourier transform in samples, at least the frame length.
        num_mel_bins: number of mel filters F.
        min_hz: lower edge of the first filter.
        max_hz: upper edge of the last filter; None means half the sample rate.
        preemphasis: coefficient c of the pre-emphasis `x[t] - c * x[t - 1]`.
        top_db: dynamic range; smaller values are raised to the maximum minus this range. Not used
            with `extractor="nemo"`.
        normalization: one of `NORMALIZATIONS[extractor]`, see above.
        loud_frames_db: frames are loud if their loudest bin is in this range below the maximum.
        start_offset_db: for `"running_loud_frames"`: start value of the mean, as a distance below
            the loudest bin so far. Use the average of this distance over a corpus.
        start_deviation_db: for `"running_loud_frames"`: start value of the standard deviation.
        start_frames: for `"running_loud_frames"`: number of frames that the start values count as.
        remove_dc_offset: whether to subtract the mean of each frame, and to use the first sample
            as its own predecessor in the pre-emphasis. A constant added to the waveform then
            changes nothing.
        extractor: `"librosa"` or `"nemo"`, see above.

    Raises:
        ValueError: an unknown extractor or normalization, or frame step, frame length and
            fft_length are not in increasing order.

    Source: librosa 0.11, `feature.melspectrogram` and `power_to_db`; `remove_dc_offset` as in
    Kaldi's `compute-fbank-feats`; NeMo, `asr/parts/preprocessing/features.py`, and
    transformers 5.23, `ParakeetFeatureExtractor`.
    """

    def __init__(
        self,
        sample_rate_hz=16000,
        frame_length_ms=25.0,
        frame_step_ms=10.0,
        fft_length=512,
        *,
        num_mel_bins=80,
        min_hz=0.0,
        max_hz=None,
        preemphasis=0.97,
        top_db=80.0,
        normalization="utterance",
        loud_frames_db=35.0,
        start_offset_db=35.0,
        start_deviation_db=13.0,
        start_frames=20.0,
        remove_dc_offset=False,
        extractor="librosa",
        **kwargs,
    ):
        super().__init__(**{**kwargs, "dtype": "float32"})
        self.sample_rate_hz = sample_rate_hz
        self.frame_length_ms = frame_length_ms
        self.frame_step_ms = frame_step_ms
        self.fft_length = fft_length
        self.num_mel_bins = num_mel_bins
        self.min_hz = min_hz
        self.max_hz = max_hz
        self.preemphasis = preemphasis
        self.top_db = top_db
        self.normalization = normalization
        self.loud_frames_db = loud_frames_db
        self.start_offset_db = start_offset_db
        self.start_deviation_db = start_deviation_db
        self.start_frames = start_frames
        self.remove_dc_offset = remove_dc_offset
        self.extractor = extractor
        if normalization not in NORMALIZATIONS.get(extractor, ()):
            raise ValueError(
                f"Expected an extractor and a normalization among {NORMALIZATIONS}. "
                f"Received: {extractor}, {normalization}."
            )
        self.frame_length = round(sample_rate_hz * frame_length_ms / 1000)
        self.frame_step = round(sample_rate_hz * frame_step_ms / 1000)
        if not self.frame_step <= self.frame_length <= fft_length:
            raise ValueError(
                "Expected frame_step <= frame_length <= fft_length (in samples). "
                f"Received: {self.frame_step}, {self.frame_length}, {fft_length}."
            )
        filters = mel_filterbank(
            sample_rate_hz, fft_length, num_mel_bins, min_hz, max_hz=max_hz or sample_rate_hz / 2
        )
        heard = np.flatnonzero(filters.any(axis=1))  # compute only the bins that a filter uses
        self._basis = windowed_dft_basis(
            self.frame_length, fft_length, heard, symmetric=extractor == "nemo"
        )
        if remove_dc_offset:  # (x - mean(x)) B equals x (B - mean of the rows of B)
            self._basis = self._basis - self._basis.mean(axis=0)
        self._filters = filters[heard]

    def frame_lengths(self, lengths):
        """Returns the `[B]` int32 numbers of frames of utterances with `[B]` lengths in samples."""
        lengths = ops.cast(lengths, "int32")
        if self.extractor == "nemo":
            return lengths // self.frame_step
        return ops.where(lengths > 0, 1 + lengths // self.frame_step, 0)

    def call(self, waveforms, lengths):
        """Computes the features of waveforms.

        Args:
            waveforms: `[B, S]` float32.
            lengths: `[B]` integers, valid samples of each waveform.

        Returns:
            `[B, 1 + S // frame_step, F]` float32 features and `[B]` int32 valid frames.
        """
        lengths = ops.cast(lengths, "int32")
        spectrum = ops.matmul(
            self._frames(self._emphasize(waveforms, lengths), lengths), self._basis
        )
        cosines, sines = ops.split(ops.square(spectrum), 2, axis=-1)
        power = ops.matmul(cosines + sines, self._filters)
        frame_lengths = self.frame_lengths(lengths)
        if self.extractor == "nemo":
            logarithms = ops.log(power + _NEMO_POWER_OFFSET)
            return self._normalize_bins(logarithms, frame_lengths), frame_lengths
        if self.normalization == "running_loud_frames":
            return self._normalize_so_far(power, frame_lengths), frame_lengths
        return self._normalize(self._decibels(power, frame_lengths), frame_lengths), frame_lengths

    def _emphasize(self, waveforms, lengths):
        samples = ops.shape(waveforms)[1]
        waveforms = ops.where(sequence_mask(lengths, samples), waveforms, 0.0)
        if self.extractor == "librosa" and self.normalization != "running_loud_frames":
            peak = ops.max(ops.abs(waveforms), axis=1, keepdims=True, initial=0.0)
            waveforms = waveforms / (peak + 1e-9)
        before = waveforms[:, :1] if self.remove_dc_offset else ops.zeros_like(waveforms[:, :1])
        previous = ops.concatenate([before, waveforms[:, :-1]], axis=1)
        return waveforms - self.preemphasis * previous

    def _frames(self, waveforms, lengths):
        """Cuts padded waveforms into frames `[B, T, frame_length]`, centered at each step."""
        frame_count = 1 + ops.shape(waveforms)[1] // self.frame_step
        covered = (frame_count - 1) * self.frame_step + self.frame_length
        if self.extractor == "nemo":
            # Pre-emphasis sets the first sample after an utterance to a value other than zero.
            inside = sequence_mask(lengths, ops.shape(waveforms)[1])
            margins = [[0, 0], [self.frame_length // 2, self.frame_length]]
            padded = ops.pad(ops.where(inside, waveforms, 0.0), margins)[:, :covered]
        else:
            padded = self._reflected(waveforms, lengths, covered)
        # Frame length and frame step are multiples of a block, so that a frame is a concatenation
        # of blocks. Slices of blocks are faster than a gather of samples.
        block = math.gcd(self.frame_length, self.frame_step)
        blocks = ops.reshape(padded, (-1, covered // block, block))
        stride = self.frame_step // block
        span = (frame_count - 1) * stride + 1
        return ops.concatenate(
            [blocks[:, i : i + span : stride] for i in range(self.frame_length // block)], axis=-1
        )

    def _reflected(self, waveforms, lengths, covered):
        """Returns `[B, covered]` samples: half a frame and each waveform, reflected at its ends."""
        positions = ops.abs(ops.arange(covered) - self.frame_length // 2)
        period = ops.expand_dims(ops.maximum(2 * (lengths - 1), 1), 1)
        positions = ops.mod(ops.expand_dims(positions, 0), period)
        positions = ops.minimum(positions, period - positions)
        return ops.take_along_axis(waveforms, positions, axis=1)

    def _decibels(self, power, frame_lengths):
        decibels = _DECIBELS_PER_NEPER * ops.log(ops.maximum(power, _POWER_FLOOR))
        valid = sequence_mask(frame_lengths, ops.shape(power)[1])[:, :, None]
        loudest = ops.max(ops.where(valid, decibels, -math.inf), axis=(1, 2), keepdims=True)
        return ops.maximum(decibels, ops.where(ops.isfinite(loudest), loudest, 0.0) - self.top_db)

    def _normalize(self, decibels, frame_lengths):
        valid = sequence_mask(frame_lengths, ops.shape(decibels)[1])[:, :, None]
        counted = self._counted(decibels, valid)
        count = ops.sum(ops.cast(counted, "float32"), axis=(1, 2), keepdims=True)
        count = ops.maximum(count, 1.0) * self.num_mel_bins
        mean = ops.sum(ops.where(counted, decibels, 0.0), axis=(1, 2), keepdims=True) / count
        centred = ops.where(valid, decibels - mean, 0.0)
        squares = ops.square(ops.where(counted, centred, 0.0))
        variance = ops.sum(squares, axis=(1, 2), keepdims=True) / count
        return centred / ops.maximum(ops.sqrt(variance), _STANDARD_DEVIATION_FLOOR)

    def _normalize_bins(self, logarithms, frame_lengths):
        valid = sequence_mask(frame_lengths, ops.shape(logarithms)[1])[:, :, None]
        if self.normalization == "none":
            return ops.where(valid, logarithms, 0.0)
        count = ops.cast(frame_lengths, "float32")[:, None, None]
        mean = ops.sum(ops.where(valid, logarithms, 0.0), axis=1, keepdims=True)
        centred = ops.where(valid, logarithms - mean / ops.maximum(count, 1.0), 0.0)
        variance = ops.sum(ops.square(centred), axis=1, keepdims=True)
        deviation = ops.sqrt(variance / ops.maximum(count - 1.0, 1.0))
        return centred / (deviation + _STANDARD_DEVIATION_FLOOR)

    def _normalize_so_far(self, power, frame_lengths):
        decibels = _DECIBELS_PER_NEPER * ops.log(ops.maximum(power, _RUNNING_POWER_FLOOR))
        loudest, mean, deviation = running_statistics(
            decibels,
            loud_frames_db=self.loud_frames_db,
            start_offset_db=self.start_offset_db,
            start_deviation_db=self.start_deviation_db,
            weight=self.start_frames,
        )
        decibels = ops.maximum(decibels, loudest - self.top_db)
        normalized = (decibels - mean) / ops.maximum(deviation, _STANDARD_DEVIATION_FLOOR)
        valid = sequence_mask(frame_lengths, ops.shape(power)[1])[:, :, None]
        return ops.where(valid, normalized, 0.0)

    def _counted(self, decibels, valid):
        """Returns a mask `[B, T, 1]` of the frames that enter the mean and the variance."""
        if self.normalization == "utterance":
            return valid
        loudest_bin = ops.max(decibels, axis=2, keepdims=True)
        loudest = ops.max(ops.where(valid, loudest_bin, -math.inf), axis=1, keepdims=True)
        return ops.logical_and(valid, loudest_bin >= loudest - self.loud_frames_db)

    def get_config(self):
        """Returns the constructor's arguments."""
        names = (
            "sample_rate_hz frame_length_ms frame_step_ms fft_length num_mel_bins min_hz max_hz "
            "preemphasis top_db normalization loud_frames_db start_offset_db start_deviation_db "
            "start_frames remove_dc_offset extractor"
        ).split()
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}


class SpecAugment(keras.layers.Layer):
    """Sets random time spans and frequency bands to zero, which is the mean of the features.

    The masks depend only on the random numbers `uniforms` that the caller passes. The data
    pipeline draws them from the seed, the epoch and the utterance, so that the masks of an
    utterance do not depend on the number of processes.

    Args:
        num_time_masks: number of time masks.
        max_time_mask_frames: largest width of a time mask in frames.
        max_time_mask_share: largest width of a time mask, as a fraction of the valid frames. The
            smaller of the two limits applies.
        num_frequency_masks: number of frequency masks.
        max_frequency_mask_bins: largest width of a frequency mask in mel bins.

    Source: Park et al., SpecAugment (2019); Park et al., SpecAugment on large scale datasets
    (2020) for time masks relative to the length.
    """

    def __init__(
        self,
        num_time_masks=10,
        max_time_mask_frames=100,
        max_time_mask_share=0.05,
        num_frequency_masks=1,
        *,
        max_frequency_mask_bins=27,
        **kwargs,
    ):
        super().__init__(**{**kwargs, "dtype": "float32"})
        self.num_time_masks = num_time_masks
        self.max_time_mask_frames = max_time_mask_frames
        self.max_time_mask_share = max_time_mask_share
        self.num_frequency_masks = num_frequency_masks
        self.max_frequency_mask_bins = max_frequency_mask_bins

    @property
    def num_uniforms(self) -> int:
        """Number of random numbers that the masks of one utterance require."""
        return 2 * (self.num_time_masks + self.num_frequency_masks)

    def call(self, features, lengths, uniforms):
        """Masks features.

        Args:
            features: `[B, T, F]`.
            lengths: `[B]` valid frames.
            uniforms: `[B, num_uniforms]`, uniformly distributed in `[0, 1)`.

        Returns:
            `[B, T, F]` features in which masked entries are zero.
        """
        frames, bins = ops.shape(features)[1], features.shape[2]
        lengths = ops.cast(lengths, "float32")[:, None]
        widest = ops.floor(
            ops.minimum(lengths * self.max_time_mask_share, float(self.max_time_mask_frames))
        )
        time, frequency = (
            uniforms[:, : 2 * self.num_time_masks],
            uniforms[:, 2 * self.num_time_masks :],
        )
        masked_frames = self._masked(time, self.num_time_masks, widest, lengths, size=frames)
        masked_bins = self._masked(
            frequency,
            self.num_frequency_masks,
            ops.full_like(lengths, min(self.max_frequency_mask_bins, bins)),
            ops.full_like(lengths, bins),
            size=bins,
        )
        masked = ops.logical_or(masked_frames[:, :, None], masked_bins[:, None, :])
        return ops.where(masked, 0.0, features)

    @staticmethod
    def _masked(uniforms, count, widest, extent, *, size):
        """Returns a mask of `count` random spans of 0 to `widest` positions within `extent`."""
        width = ops.floor(uniforms[:, :count] * (widest + 1.0))
        start = ops.floor(uniforms[:, count:] * (extent - width + 1.0))
        position = ops.cast(ops.arange(size), "float32")[None, :, None]
        inside = ops.logical_and(
            position >= start[:, None, :], position < (start + width)[:, None, :]
        )
        return ops.any(inside, axis=-1)

    def get_config(self):
        """Returns the constructor's arguments."""
        names = (
            "num_time_masks max_time_mask_frames max_time_mask_share num_frequency_masks "
            "max_frequency_mask_bins"
        ).split()
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}
