"""Greedy transducer decoding on the pieces of a model, whatever runtime executes them."""

from collections.abc import Mapping

import numpy as np

from tools.conversion.quantization import Run


def transcribe(
    run: Run, pipeline: Mapping, inputs: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Recognizes a batch with the signatures `listen`, `predict` and `join`.

    What it gives is that of the SavedModel's `serving_default`, in types and values. The loop runs
    here and not in the runtime: on two cores and batches of 16 it took half the time of
    TensorFlow's own loop, and a translated one cannot be had (tf2onnx 1.17 knows no loop that
    writes into a list).

    Args:
        run: runs `(inputs, signature)`.
        pipeline: `pipeline.json` of the model.
        inputs: `waveforms` and `lengths`.

    Returns:
        `text` `[B]` bytes, `token_ids` `[B, U]`, `token_lengths` `[B]`, `log_probability` `[B]`.

    Source: `conformer.decoding.greedy_decode`, step by step.
    """
    heard = run(inputs, "listen")
    encoded, frames = heard["encoded"], heard["encoded_lengths"]
    batch, rows = len(encoded), np.arange(len(encoded))
    blank, cap = pipeline["blank"], pipeline["max_symbols_per_frame"]
    tokens = np.full((batch, 1), blank, np.int32)
    states = np.zeros((batch, *pipeline["state_shape"]), np.float32)
    after = run({"tokens": tokens, "states": states}, "predict")
    predicted, states = np.array(after["predicted"]), np.array(after["next_states"])
    frame, symbols = np.zeros(batch, np.int64), np.zeros(batch, np.int64)
    log_probability = np.zeros(batch, np.float32)
    path: list[list[int]] = [[] for _ in rows]
    while (active := frame < frames).any():
        current = encoded[rows, np.minimum(frame, encoded.shape[1] - 1)][:, None]
        logits = run({"encoded": current, "predicted": predicted}, "join")["logits"][:, 0, 0]
        token = logits.argmax(axis=1)
        best = logits[rows, token]
        total = np.log(np.exp(logits - best[:, None]).sum(axis=1))
        log_probability -= np.where(active, total, 0.0).astype(np.float32)
        emits = active & (token != blank)
        emitting = np.flatnonzero(emits)
        if len(emitting):
            tokens = token[emitting, None].astype(np.int32)
            after = run({"tokens": tokens, "states": states[emitting]}, "predict")
            predicted[emitting], states[emitting] = after["predicted"], after["next_states"]
            for row in emitting:
                path[row].append(int(token[row]))
        symbols = np.where(emits, symbols + 1, 0)
        moves = ~emits | (symbols >= cap)
        frame = np.where(moves, frame + 1, frame)
        symbols = np.where(moves, 0, symbols)
    surfaces = pipeline["vocabulary"]["surfaces"]
    lengths = np.array([len(tokens) for tokens in path], np.int32)
    token_ids = np.full((batch, lengths.max(initial=0)), blank, np.int32)
    for row, tokens in enumerate(path):
        token_ids[row, : len(tokens)] = tokens
    texts = ["".join(surfaces[token] for token in tokens).strip() for tokens in path]
    return {
        "text": np.array([text.encode() for text in texts], object),
        "token_ids": token_ids,
        "token_lengths": lengths,
        "log_probability": log_probability,
    }
