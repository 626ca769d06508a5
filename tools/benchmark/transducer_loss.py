"""Times the forms of the transducer loss, joint network included, and measures their memory."""

import sys
from dataclasses import dataclass
from pathlib import Path

# Before any runtime.
from tools.benchmark.turns import use_cores  # isort: skip

from tqdm import tqdm

from tools.benchmark.own_process import gemm_gflops, in_own_process, median_seconds
from tools.config.command_line import CommandLine, run
from tools.errors import UserError
from tools.files import check_writable, to_json, write_text
from tools.memory import peak_resident_bytes

FORMS = ("plain", "fused", "pruned")
WHOLE = "whole"  # plain, with all logits computed at once


@dataclass(frozen=True, slots=True)
class Sizes:
    """Sizes of the inputs.

    Attributes:
        batch: utterances B.
        frames: encoder frames T of each utterance.
        labels: labels U of each utterance.
        vocabulary: symbols V.
        width: width of the encoder, of the prediction network and of the joint network.
        s_range: states of each frame of the pruned loss.
    """

    batch: int
    frames: int
    labels: int
    vocabulary: int
    width: int
    s_range: int = 5


def measure(form: str, sizes: Sizes, rounds: int) -> dict:
    """Measures one form of the loss, with the gradients by its inputs and the joint network.

    Args:
        form: `loss.kind` of the config, or `whole`: plain, with all logits computed at once.
        sizes: sizes of the inputs.
        rounds: number of calls that are timed.

    Returns:
        Median time in seconds, peak memory in bytes above that before the first call, and the loss.
    """
    import tensorflow as tf

    from conformer.joint import JointNetwork, SimpleJoint
    from conformer.pruned_loss import pruned_transducer_loss
    from conformer.transducer_loss import loss_of_pieces, transducer_loss

    batch, frames, labels, width = sizes.batch, sizes.frames, sizes.labels, sizes.width
    tf.keras.utils.set_random_seed(1)
    joint, simple_joint = JointNetwork(width, sizes.vocabulary), SimpleJoint(sizes.vocabulary)
    for layer in (joint, simple_joint):
        layer.build((None, None, width), (None, None, width))
    generator = tf.random.Generator.from_seed(1)
    encoded = generator.normal([batch, frames, width])
    predicted = generator.normal([batch, labels + 1, width])
    targets = generator.uniform([batch, labels], 1, sizes.vocabulary, tf.int32)
    layers = [joint, simple_joint] if form == "pruned" else [joint]
    weights = [v.value for layer in layers for v in layer.trainable_variables]
    lengths = {
        "logit_lengths": tf.fill([batch], frames),
        "label_lengths": tf.fill([batch], labels),
    }

    def losses_of(encoded, predicted):
        if form == "pruned":
            pair = pruned_transducer_loss(
                encoded, predicted, layers, targets, s_range=sizes.s_range, **lengths
            )
            return pair.simple + pair.pruned
        if form == WHOLE:
            return transducer_loss(joint(encoded, predicted), targets, *lengths.values())
        return loss_of_pieces(encoded, predicted, joint, targets, kind=form, **lengths)

    @tf.function(autograph=False)
    def step():
        with tf.GradientTape() as tape:
            tape.watch([encoded, predicted])
            losses = losses_of(encoded, predicted)
        return tf.reduce_sum(losses), tape.gradient(losses, [encoded, predicted, *weights])

    before = peak_resident_bytes()
    loss = float(step()[0])
    time_s = median_seconds(lambda: float(step()[0]), rounds)
    return {
        "form": form,
        "time_s": time_s,
        "peak_bytes": max(peak_resident_bytes() - before, 0),  # the kernel counts a few pages late
        "loss": loss,
    }


def main(argv: list[str]) -> int:
    """Runs the program and returns its exit code."""
    flags = CommandLine(
        "tools.benchmark.transducer_loss",
        "Times the forms of the transducer loss, joint network included, each in its own process.",
        example="--batch=4 --frames=400 --labels=100 --vocabulary=1000 --json=loss.json",
    )
    flags.group("Input")
    flags.integer("batch", 4, "Utterances.")
    flags.integer("frames", 400, "Encoder frames of an utterance.")
    flags.integer("labels", 100, "Labels of an utterance.")
    flags.integer("vocabulary", 1000, "Symbols of the vocabulary, the blank included.")
    flags.integer("width", 320, "Width of the joint network.")
    flags.integer("s_range", 5, "States of each frame, for the pruned loss.")
    about = "Also measures the plain loss with all logits computed at once, not in pieces."
    flags.boolean("whole", False, about)
    flags.group("Runtime")
    flags.integer("threads", None, "Threads.", default_text="all cores")
    flags.group("Measurement")
    flags.integer("loop", 5, "Number of timed calls of each form.")
    flags.group("Output")
    flags.string("json", None, "Report to write.", default_text="none")
    values, rest = flags.parse(argv)
    sizes = Sizes(
        values.batch,
        values.frames,
        values.labels,
        values.vocabulary,
        values.width,
        values.s_range,
    )
    if rest or min(values.loop, sizes.batch, sizes.frames, sizes.width) < 1 or sizes.labels < 0:
        raise UserError.expected(
            "flags alone, with sizes of at least 1", " ".join(argv), "See --help"
        )
    if sizes.vocabulary < 2:
        raise UserError.expected("--vocabulary >= 2", sizes.vocabulary, "Correct --vocabulary")
    if not 2 <= sizes.s_range <= max(sizes.labels + 1, 2):
        raise UserError.expected(
            f"--s_range from 2 to {sizes.labels + 1}, the labels + 1",
            sizes.s_range,
            "Correct --s_range",
        )
    if values.threads is not None:
        use_cores(values.threads)
    if values.json:
        check_writable(Path(values.json))
    rows = sizes.batch * sizes.frames * (sizes.labels + 1)
    product = (min(rows, 51000), sizes.width, sizes.vocabulary)
    report = {"gemm_gflops": in_own_process(gemm_gflops, {product: 1.0}), "forms": []}
    forms = [*FORMS, WHOLE] if values.whole else FORMS
    for form in tqdm(forms, desc="forms", file=sys.stderr):
        found = in_own_process(measure, form, sizes, values.loop)
        report["forms"].append(found)
        tqdm.write(
            f"{form}: {found['time_s']:.3f} s, {found['peak_bytes'] / 2**30:.2f} GiB, "
            f"loss {found['loss']:.6g}",
            file=sys.stdout,
        )
    if values.json:
        write_text(Path(values.json), to_json(report, indent=1))
    return 0


if __name__ == "__main__":
    run(main)
