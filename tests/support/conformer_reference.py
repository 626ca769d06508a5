"""The Conformer transducer in plain NumPy and float64, one utterance at a time.

Written from the papers, not from the code: Gulati et al., Conformer (2020); Dai et al.,
Transformer-XL (2019), for the relative positions; Slaney, Auditory Toolbox (1998), for the mel
scale; Ioffe and Szegedy, Batch normalization (2015); Hochreiter and Schmidhuber, LSTM (1997), with
Keras's order of the gates; Graves, Sequence transduction (2012). A batch is a list of utterances of
their own lengths, so there is no padding and no mask anywhere.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

LAYER_NORM_EPSILON = 1e-5
BATCH_NORM_EPSILON = 1e-3
BATCH_NORM_MOMENTUM = 0.99
BLANK = 0

Weights = Mapping[str, np.ndarray]
Rows = Sequence[np.ndarray]
Drop = Callable[[np.ndarray], np.ndarray]  # stands where dropout is applied


def weights_of(layer) -> dict[str, np.ndarray]:
    """Returns a Keras layer's weights in float64 by their path below the layer."""
    return {v.path.split("/", 1)[1]: np.asarray(v, "float64") for v in layer.weights}


def random_weight(path: str, shape: Sequence[int], rng: np.random.Generator) -> np.ndarray:
    """Draws a weight: scales and variances around 1, vectors around 0, products by their fan-in."""
    name = path.rsplit("/", 1)[-1]
    draw = rng.standard_normal(shape)
    if name == "moving_variance":
        return np.exp(0.5 * draw)
    if name == "gamma":
        return 1.0 + 0.3 * draw
    if "kernel" in name and len(shape) > 1:
        # A depthwise kernel [K, 1, D, 1] sums over K alone.
        fan_in = shape[0] if shape[-1] == 1 else np.prod(shape[:-1])
        return draw * fan_in**-0.5
    return 0.4 * draw


def randomize(layer, rng: np.random.Generator) -> None:
    """Draws every weight of a Keras layer anew, biases, scales and moving statistics included."""
    for variable in layer.weights:
        variable.assign(random_weight(variable.path, variable.shape, rng).astype("float32"))


def below(weights: Weights, name: str) -> dict[str, np.ndarray]:
    """Returns the weights of a child."""
    prefix = f"{name}/"
    return {k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)}


def undropped(x: np.ndarray) -> np.ndarray:
    """Dropout in evaluation, or at rate 0."""
    return x


def sigmoid(x: np.ndarray) -> np.ndarray:
    """The logistic function."""
    return 1.0 / (1.0 + np.exp(-x))


def swish(x: np.ndarray) -> np.ndarray:
    """`x * sigmoid(x)`."""
    return x * sigmoid(x)


def softmax(x: np.ndarray) -> np.ndarray:
    """Softmax over the last axis."""
    powers = np.exp(x - x.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def dense(weights: Weights, x: np.ndarray) -> np.ndarray:
    """A dense layer; one without bias has no such weight."""
    return x @ weights["kernel"] + weights.get("bias", 0.0)


def layer_norm(weights: Weights, x: np.ndarray) -> np.ndarray:
    """Layer normalization over the last axis."""
    centred = x - x.mean(axis=-1, keepdims=True)
    variance = np.mean(centred**2, axis=-1, keepdims=True)
    return weights["gamma"] * centred / np.sqrt(variance + LAYER_NORM_EPSILON) + weights["beta"]


def mel_filters(
    rate_hz: float, fft_length: int, num_bins: int, min_hz: float, max_hz: float
) -> np.ndarray:
    """Slaney's filters `[fft_length // 2 + 1, num_bins]`: triangles of the same area."""

    def mel_of(hz):
        return hz * 3 / 200 if hz < 1000 else 15 + 27 * np.log(hz / 1000) / np.log(6.4)

    def hz_of(mel):
        return mel * 200 / 3 if mel < 15 else 1000 * 6.4 ** ((mel - 15) / 27)

    bins_hz = np.fft.rfftfreq(fft_length, 1 / rate_hz)
    corners = [hz_of(mel) for mel in np.linspace(mel_of(min_hz), mel_of(max_hz), num_bins + 2)]
    triangles = [
        np.interp(bins_hz, [low, middle, high], [0.0, 2.0 / (high - low), 0.0])
        for low, middle, high in zip(corners, corners[1:], corners[2:], strict=False)
    ]
    return np.stack(triangles, axis=1)


def log_mel_spectrogram(
    waveform: np.ndarray,
    sample_rate_hz: int = 16000,
    frame_length_ms: float = 25.0,
    frame_step_ms: float = 10.0,
    fft_length: int = 512,
    num_mel_bins: int = 80,
    min_hz: float = 0.0,
    max_hz: float | None = None,
    preemphasis: float = 0.97,
    top_db: float = 80.0,
    normalization: str = "utterance",
    loud_frames_db: float = 35.0,
    remove_dc_offset: bool = False,
) -> np.ndarray:
    """Normalized log-mel features `[1 + S // step, F]` of a waveform `[S]`."""
    length = round(sample_rate_hz * frame_length_ms / 1000)
    step = round(sample_rate_hz * frame_step_ms / 1000)
    x = np.asarray(waveform, "float64")
    x = x / (np.abs(x).max() + 1e-9)
    first = x[:1] * (1.0 - preemphasis) if remove_dc_offset else x[:1]
    x = np.concatenate([first, x[1:] - preemphasis * x[:-1]])
    centred = np.pad(x, (length // 2, length), mode="reflect")
    window = np.hanning(length + 1)[:-1]
    frames = [centred[n * step : n * step + length] for n in range(1 + len(x) // step)]
    if remove_dc_offset:
        frames = [frame - frame.mean() for frame in frames]
    power = np.abs(np.fft.rfft(np.stack(frames) * window, fft_length)) ** 2
    top_hz = sample_rate_hz / 2 if max_hz is None else max_hz
    mel = power @ mel_filters(sample_rate_hz, fft_length, num_mel_bins, min_hz, top_hz)
    decibels = 10.0 * np.log10(np.maximum(mel, 1e-10))
    decibels = np.maximum(decibels, decibels.max() - top_db)
    counted = decibels
    if normalization == "loud_frames":
        counted = decibels[decibels.max(axis=1) >= decibels.max() - loud_frames_db]
    return (decibels - counted.mean()) / max(counted.std(), 1e-5)


def subsample(weights: Weights, features: np.ndarray, drop: Drop = undropped) -> np.ndarray:
    """Features `[T, F]` to `[ceil(ceil(T / 2) / 2), D]`, with one zero around the utterance."""
    x = features[:, :, None]
    for index in range(2):
        child = below(weights, f"convolution_{index}")
        padded = np.pad(x, [(1, 1), (1, 1), (0, 0)])
        frames, bins = -(-x.shape[0] // 2), -(-x.shape[1] // 2)
        x = child["bias"] + sum(
            padded[i : i + 2 * frames : 2, j : j + 2 * bins : 2] @ child["kernel"][i, j]
            for i in range(3)
            for j in range(3)
        )
        x = np.maximum(x, 0.0)
    return drop(dense(below(weights, "projection"), x.reshape(len(x), -1)))


def feed_forward(weights: Weights, x: np.ndarray, drop: Drop = undropped) -> np.ndarray:
    """Dense, swish, dropout, dense, dropout."""
    inner = drop(swish(dense(below(weights, "expansion"), x)))
    return drop(dense(below(weights, "projection"), inner))


def sinusoids(offsets: np.ndarray, width: int) -> np.ndarray:
    """Encodings `[..., width]` of offsets: sines in even columns, cosines in odd ones."""
    column = np.arange(width)
    angles = np.asarray(offsets)[..., None] / 10000.0 ** (column // 2 * 2 / width)
    return np.where(column % 2 == 0, np.sin(angles), np.cos(angles))


def relative_attention(weights: Weights, x: np.ndarray) -> np.ndarray:
    """Self-attention of `[T, D]` with the encoding of every pair's own offset i - j."""
    frames, width = x.shape
    u, v = weights["content_bias"], weights["position_bias"]
    heads, size = u.shape
    q, k, values = np.split(dense(below(weights, "query_key_value"), x), 3, axis=-1)
    offsets = np.arange(frames)[:, None] - np.arange(frames)[None, :]
    r = dense(below(weights, "position"), sinusoids(offsets, width))
    context = []
    for h in range(heads):
        own = slice(h * size, (h + 1) * size)
        content = (q[:, own] + u[h]) @ k[:, own].T
        position = np.einsum("ik,ijk->ij", q[:, own] + v[h], r[:, :, own])
        context.append(softmax((content + position) / np.sqrt(size)) @ values[:, own])
    return dense(below(weights, "output_projection"), np.concatenate(context, axis=-1))


def batch_norm(
    weights: Weights, rows: Rows, training: bool
) -> tuple[list[np.ndarray], dict[str, np.ndarray]]:
    """Normalizes utterances; in training by the moments of all their frames.

    Returns:
        The utterances, and the moving statistics afterwards.
    """
    moving = {name: weights[name] for name in ("moving_mean", "moving_variance")}
    mean, variance = moving["moving_mean"], moving["moving_variance"]
    if training:
        frames = np.concatenate(rows)
        mean, variance = frames.mean(axis=0), frames.var(axis=0)
        share = 1.0 - BATCH_NORM_MOMENTUM
        moving = {
            "moving_mean": (1.0 - share) * moving["moving_mean"] + share * mean,
            "moving_variance": (1.0 - share) * moving["moving_variance"] + share * variance,
        }
    scale = weights["gamma"] / np.sqrt(variance + BATCH_NORM_EPSILON)
    return [(x - mean) * scale + weights["beta"] for x in rows], moving


def depthwise_convolution(weights: Weights, x: np.ndarray) -> np.ndarray:
    """Each channel of `[T, D]` by its own kernel; an even one sees one more future frame."""
    kernel = weights["kernel"][:, 0, :, 0]
    size = len(kernel)
    padded = np.pad(x, [((size - 1) // 2, size // 2), (0, 0)])
    taps = [kernel[n] * padded[n : n + len(x)] for n in range(size)]
    return np.sum(taps, axis=0) + weights["bias"]


def convolution_module(
    weights: Weights, rows: Rows, training: bool, drop: Drop = undropped
) -> tuple[list[np.ndarray], dict[str, np.ndarray]]:
    """Pointwise, GLU, depthwise, batch norm, swish, pointwise, dropout; and moving statistics."""

    def convolved(x):
        values, gates = np.split(dense(below(weights, "expansion"), x), 2, axis=-1)
        return depthwise_convolution(below(weights, "depthwise"), values * sigmoid(gates))

    normalized, moving = batch_norm(
        below(weights, "normalization"), [convolved(x) for x in rows], training
    )
    rows = [drop(dense(below(weights, "projection"), swish(x))) for x in normalized]
    return rows, {f"normalization/{name}": value for name, value in moving.items()}


def block(
    weights: Weights, rows: Rows, training: bool, drop: Drop = undropped
) -> tuple[list[np.ndarray], dict[str, np.ndarray]]:
    """Half a feed-forward module, attention, convolution, half a feed-forward module, norm."""

    def norm(name, x):
        return layer_norm(below(weights, f"norm_{name}"), x)

    def half_step(name, x):
        return x + feed_forward(below(weights, name), norm(name, x), drop) / 2

    attention = below(weights, "attention")
    rows = [half_step("feedforward_0", x) for x in rows]
    rows = [x + drop(relative_attention(attention, norm("attention", x))) for x in rows]
    convolved, moving = convolution_module(
        below(weights, "convolution"), [norm("convolution", x) for x in rows], training, drop
    )
    rows = [x + y for x, y in zip(rows, convolved, strict=True)]
    rows = [norm("output", half_step("feedforward_1", x)) for x in rows]
    return rows, {f"convolution/{name}": value for name, value in moving.items()}


def encode(
    weights: Weights, features: Rows, training: bool, drop: Drop = undropped
) -> tuple[list[np.ndarray], dict[str, np.ndarray]]:
    """Subsampling and all blocks; and the moving statistics."""
    rows = [subsample(below(weights, "subsampling"), x, drop) for x in features]
    statistics = {}
    for index in range(len({k.split("/")[0] for k in weights if k.startswith("block_")})):
        rows, moving = block(below(weights, f"block_{index}"), rows, training, drop)
        statistics |= {f"block_{index}/{name}": value for name, value in moving.items()}
    return rows, statistics


def lstm_step(
    weights: Weights, x: np.ndarray, state: tuple[np.ndarray, np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """One step from (output, cell) to the next; gates in the order input, forget, cell, output."""
    output, cell = state
    gates = x @ weights["kernel"] + output @ weights["recurrent_kernel"] + weights["bias"]
    i, f, c, o = np.split(gates, 4)
    cell = sigmoid(f) * cell + sigmoid(i) * np.tanh(c)
    return sigmoid(o) * np.tanh(cell), cell


def predict(
    weights: Weights, tokens: Sequence[int], state: tuple[np.ndarray, np.ndarray] | None = None
) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray]]:
    """Tokens to `[U, P]`, and the state after the last one."""
    cell = below(weights, "lstm/lstm_cell")
    width = len(cell["recurrent_kernel"])
    state = (np.zeros(width), np.zeros(width)) if state is None else state
    outputs = []
    for token in tokens:
        state = lstm_step(cell, weights["embedding/embeddings"][token], state)
        outputs.append(state[0])
    return layer_norm(below(weights, "norm"), np.stack(outputs)), state


def join(weights: Weights, encoded: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """`[T, D]` and `[U, P]` to logits `[T, U, V]`."""
    frames = dense(below(weights, "encoded_projection"), encoded)
    states = dense(below(weights, "predicted_projection"), predicted)
    joined = np.tanh(frames[:, None] + states[None, :])
    return dense(below(weights, "vocabulary_projection"), joined)


def transduce(
    weights: Weights,
    waveforms: Rows,
    labels: Sequence[Sequence[int]],
    training: bool,
    front_end: Callable[[np.ndarray], np.ndarray] = log_mel_spectrogram,
) -> tuple[list[np.ndarray], dict[str, np.ndarray]]:
    """Waveforms `[S]` and labels to logits `[T, U + 1, V]`; and the moving statistics."""
    encoded, moving = encode(below(weights, "encoder"), [front_end(x) for x in waveforms], training)
    states = [predict(below(weights, "prediction"), [BLANK, *row])[0] for row in labels]
    joint = below(weights, "joint")
    logits = [join(joint, x, y) for x, y in zip(encoded, states, strict=True)]
    return logits, {f"encoder/{name}": value for name, value in moving.items()}


def transducer_loss(logits: np.ndarray, labels: Sequence[int]) -> float:
    """Negative log likelihood of labels by the forward recursion over logits `[T, U + 1, V]`."""
    scores = np.log(softmax(logits))
    frames, states = scores.shape[:2]
    alpha = np.full((frames + 1, states), -np.inf)
    alpha[0, 0] = 0.0
    for t, u in np.ndindex(frames, states):
        if u > 0:
            arriving = alpha[t, u - 1] + scores[t, u - 1, labels[u - 1]]
            alpha[t, u] = np.logaddexp(alpha[t, u], arriving)
        alpha[t + 1, u] = alpha[t, u] + scores[t, u, BLANK]
    return -alpha[frames, states - 1]


def ctc_loss(logits: np.ndarray, labels: Sequence[int]) -> float:
    """CTC's negative log likelihood of labels over logits `[T, V]` (Graves et al., 2006)."""
    scores = np.log(softmax(logits))
    path = [BLANK]
    for label in labels:
        path += [label, BLANK]
    alpha = np.full(len(path), -np.inf)
    alpha[:2] = scores[0, path[:2]]
    for frame in scores[1:]:
        before, alpha = alpha, np.full(len(path), -np.inf)
        for s, symbol in enumerate(path):
            # A blank may be left out between two different labels.
            skips = s > 1 and symbol not in (BLANK, path[s - 2])
            arriving = before[max(0, s - 1 - skips) : s + 1]
            alpha[s] = np.logaddexp.reduce(arriving) + frame[symbol]
    return -np.logaddexp.reduce(alpha[-2:])


def greedy(
    weights: Weights, waveform: np.ndarray, max_symbols_per_frame: int = 5
) -> tuple[list[int], float]:
    """Recognizes a waveform: tokens, and the log probability of the path."""
    (encoded,), _ = encode(below(weights, "encoder"), [log_mel_spectrogram(waveform)], False)
    prediction, joint = below(weights, "prediction"), below(weights, "joint")
    predicted, state = predict(prediction, [BLANK])
    tokens, log_probability = [], 0.0
    for frame in encoded:
        for _ in range(max_symbols_per_frame):
            scores = np.log(softmax(join(joint, frame[None], predicted)[0, 0]))
            best = int(scores.argmax())
            log_probability += scores[best]
            if best == BLANK:
                break
            tokens.append(best)
            predicted, state = predict(prediction, [best], state)
    return tokens, log_probability
