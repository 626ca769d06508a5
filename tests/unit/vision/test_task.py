"""Tests the training task: loss of both heads, weights of rows, evaluation on ranks, depths."""

import dataclasses
import os

import numpy as np
import pytest
import tensorflow as tf

from tests.support.accumulation import check_parts, check_rematerialized
from tests.support.errors import refused
from tools.training.distributed import SingleProcess
from tools.training.fused_batch_norm import fused_batch_norm
from tools.training.optimizer import Optimizer
from tools.training.step import freeze, moving_statistics
from tools.training.task import Position, Shard
from vision.config import load_config
from vision.convolution import BatchNormalization
from vision.images import read_image
from vision.input_pipeline import Batches
from vision.task import VisionTask


class Rank(SingleProcess):
    """One of several processes without communication; records what it would gather."""

    def __init__(self, rank, size):
        self.rank, self.size = rank, size

    def gather_objects(self, value):
        self.gathered = value
        return [value]


@pytest.fixture(scope="module")
def data_url(image_folder):
    return image_folder(("a", "b", "c"), 5)


@pytest.fixture(scope="module")
def make_task(data_url, small_architecture):
    def make(processes=None, **flags):
        words = {"data_url": str(data_url), "arch": small_architecture, "num_classes": "3"}
        words |= {"image_size": "32", "batch_size": "4", "drop_path": "0.0"}
        config = load_config(flags=words | {name: str(value) for name, value in flags.items()})
        return VisionTask(config, processes or SingleProcess())

    return make


@pytest.fixture(scope="module")
def task(make_task):
    """Returns a task with the flags above. Tests change its variables only by training=True."""
    return make_task()


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(3)
    return {
        "images": tf.constant(rng.normal(size=(4, 32, 32, 3)), tf.float32),
        "targets": tf.constant(rng.dirichlet([1, 1, 1], 4), tf.float32),
        "labels": tf.constant([0, 2, 1, 1]),
        "weights": tf.constant([1.0, 1.0, 0.0, 1.0]),
    }


@pytest.mark.parametrize(("heads_loss", "factor"), [("mean", 0.5), ("sum", 1.0)])
def test_the_loss_is_the_soft_cross_entropy_of_both_heads(
    task, batch, heads_loss, factor, monkeypatch
):
    run = dataclasses.replace(task.config.run, heads_loss=heads_loss)
    monkeypatch.setattr(task, "config", dataclasses.replace(task.config, run=run))
    sums = task.loss(batch, training=False)
    heads = [x.numpy().astype("float64") for x in task.model(batch["images"])]
    losses = np.zeros(4)
    for logits in heads:
        probabilities = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
        losses -= (batch["targets"].numpy() * np.log(probabilities)).sum(axis=-1)
    losses *= factor * batch["weights"].numpy()
    np.testing.assert_allclose(sums.examples, losses, rtol=1e-4)
    np.testing.assert_allclose(sums.loss_sum, losses.sum(), rtol=1e-4)
    assert float(sums.weight) == 3.0
    for name, logits in zip(
        ("acc_head1", "acc_head2", "acc_heads"), (*heads, heads[0] + heads[1]), strict=True
    ):
        hits = (logits.argmax(axis=-1) == batch["labels"].numpy()) * batch["weights"].numpy()
        assert float(sums.metrics[name]) == hits.sum()


def test_a_row_without_weight_has_no_gradient(task, batch):
    images = tf.Variable(batch["images"])
    with tf.GradientTape() as tape:
        loss = task.loss({**batch, "images": images}, training=False).loss_sum
    moved = np.abs(tape.gradient(loss, images).numpy()).max(axis=(1, 2, 3)) > 0
    assert moved.tolist() == [True, True, False, True]


def loss_and_gradients(task, batch):
    """Returns loss and gradients of a training step, the gradients as one vector."""
    with tf.GradientTape() as tape:
        sums = task.loss(batch, training=True)
    variables = [v.value for v in task.model.trainable_variables]
    gradients = tape.gradient(sums.loss_sum, variables)
    return sums, np.concatenate([g.numpy().ravel() for g in gradients])


@pytest.fixture(scope="module")
def whole_precision():
    """Returns the result of `loss_and_gradients` in float32."""
    return []


@pytest.mark.parametrize(
    ("level", "dtype", "of_loss", "of_gradients"),
    [("O1", "float16", 0.002, 0.15), ("bfloat16", "bfloat16", 0.02, 0.7)],
)
def test_mixed_precision_trains_as_float32(
    make_task, task, batch, whole_precision, level, dtype, of_loss, of_gradients
):
    """The loss is float32 and close; the gradients have nearly the same length and direction."""
    if not whole_precision:
        whole_precision.extend(loss_and_gradients(task, batch))
    task = make_task(amp_level=level)
    assert task.model.stem.compute_dtype == dtype
    sums, gradients = loss_and_gradients(task, batch)
    assert sums.loss_sum.dtype == sums.examples.dtype == tf.float32
    expected, reference = whole_precision
    assert float(sums.loss_sum) == pytest.approx(float(expected.loss_sum), rel=of_loss)
    # Batch norm over four images amplifies rounding errors.
    assert np.linalg.norm(gradients - reference) < of_gradients * np.linalg.norm(reference)


def test_a_batch_of_the_pipeline_can_be_trained_on(make_task):
    task = make_task(auto_augment="none")
    (batch,) = task.train_data(Shard(0, 1, 16), Position(), 1).dataset
    sums = task.loss(batch, training=True)
    assert float(sums.weight) == 16.0
    assert 0.1 < float(sums.loss_sum) / 16 < 5


@pytest.fixture(scope="module")
def many_classes(image_folder):
    """Eight classes, so that top 5 is not trivial; three evaluation images are broken."""
    root = image_folder(tuple("abcdefgh"), 4)
    for name in ("b/0.png", "b/3.png", "c/1.png"):
        (root / "val" / name).write_text("broken")
    return root


def test_the_evaluation_by_hand_and_by_shares(make_task, many_classes, monkeypatch, caplog):
    processes = Rank(0, 1)
    flags = {"data_url": many_classes, "num_classes": 8, "eval_batch_size": 6, "heads_loss": "sum"}
    task = make_task(processes, **flags)
    # The heads see class a, class c, and together class b; a little of the image.
    rng = np.random.default_rng(4)
    for head, bias in (
        (task.model.convolution_head, [3, 2, 0, 0.8, 0.6, 0.1, 0.4, 0.2]),
        (task.model.transformer_head, [0, 2, 3, 0, 0, 0, 0, 0]),
    ):
        head.bias.assign(bias)
        head.kernel.assign(rng.normal(0, 0.01, head.kernel.shape))
    sizes, read = [], Batches.__iter__

    def note(batches):
        for indices, images in read(batches):
            sizes.append(len(images))
            yield indices, images

    monkeypatch.setattr(Batches, "__iter__", note)
    found = task.evaluators["eval"]()
    names = " ".join(record.getMessage() for record in caplog.records)
    assert "images left out of the evaluation: 3: " in names
    assert all(f"{many_classes}/val/{x} (not an image" in names for x in ("b/0.png", "c/1.png"))
    assert sizes == [6, 6, 6, 6, 5]
    all_images = sorted((many_classes / "val").rglob("*.png"))
    paths = [path for path in all_images if path.stat().st_size > 10]
    labels = np.array(["abcdefgh".index(path.parent.name) for path in paths])
    images = np.stack([read_image(path, task.config.preprocessing) for path in paths])
    heads = np.stack([x.numpy().astype("float64") for x in task.model(images)])
    both, places = heads.sum(0), np.arange(29)
    first, second = (heads.argmax(-1) == labels).mean(-1)
    better = (both > both[places, labels][:, None]).sum(-1)
    expected = {
        "acc_head1": first,
        "acc_head2": second,
        "acc_heads": (better == 0).mean(),
        "acc_heads_top5": (better < 5).mean(),
        "loss": (np.log(np.exp(heads).sum(-1)) - heads[:, places, labels]).sum(0).mean(),
        "num_images": 29,
        "num_skipped": 3,
    }
    assert [round(29 * x) for x in [*expected.values()][:3]] == [4, 3, 2]
    assert 2 < 29 * expected["acc_heads_top5"] < 29
    assert found == pytest.approx(expected, rel=1e-5)
    # The sums of three ranks add up to the result of one process.
    shares = []
    for rank in range(3):
        processes.rank, processes.size = rank, 3
        task.evaluators["eval"]()
        shares.append(processes.gathered)
    counts = [sum(x.stat().st_size > 10 for x in all_images[rank::3]) for rank in range(3)]
    assert [share[0] for share in shares] == counts
    count, loss, *hits = np.sum(shares, axis=0)
    assert hits == pytest.approx([29 * x for x in [*expected.values()][:4]])
    assert (count, loss / 29) == (29, pytest.approx(expected["loss"], rel=1e-5))


def test_an_evaluation_without_images_is_refused(make_task, many_classes, tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "0.png").write_text("broken")
    flags = {"data_url": many_classes, "num_classes": 8, "val_dir": tmp_path}
    with refused("evaluation images that can be read. Received: not an image"):
        make_task(**flags).evaluators["eval"]()


def test_a_seed_chooses_a_part_of_the_images_and_initial_weights(make_task):
    tasks = [make_task(train_num_samples=6, val_num_samples=4, seed=seed) for seed in (0, 0, 1)]
    parts = [task.folder for task in tasks]
    for task in tasks:
        assert [line for line in task.report if "/val: 4 images" in line]
    assert [len(part.paths) for part in parts] == [6, 6, 6]
    assert parts[0].paths == parts[1].paths != parts[2].paths
    tokens = [task.model.class_token.numpy() for task in tasks]
    np.testing.assert_array_equal(tokens[0], tokens[1])
    assert np.any(tokens[0] != tokens[2])
    for path, label in zip(parts[0].paths, parts[0].labels, strict=True):
        assert f"/{'abc'[label]}/" in path


def test_layers_are_counted_from_the_image_to_the_answer(task):
    depths = {v.path.split("/", 1)[1]: task.layer_depth(v.path) for v in task.model.weights}
    assert {depths[name] for name in ("class_token", "stem/convolution/kernel")} == {0}
    assert depths["patch_embedding/bias"] == 0
    assert depths["convolution_1/residual/convolution/kernel"] == 1
    assert depths["transformer_1/attention/query_key_value/kernel"] == 1
    assert depths["coupled_2/convolution/reduce/convolution/kernel"] == 2
    assert depths["coupled_3/transformer/expansion/bias"] == 3
    assert {depths[n] for n in depths if "head" in n or "final_norm" in n} == {4}


def test_weight_decay_takes_kernels_and_nothing_else(make_task):
    """No weight decay for norms and biases, which are vectors, and the class token, as in timm."""
    task = make_task(weight_decay=0.05)
    variables = task.model.trainable_variables
    for variable in variables:
        variable.assign(np.ones(variable.shape))
    optimizer = Optimizer(task.config.training.optimizer, variables)
    optimizer.apply(optimizer.flatten([None] * len(variables)), 1.0)
    kept, decayed = set(), set()
    for variable in variables:
        is_kept = float(variable.numpy().min()) == float(variable.numpy().max()) == 1.0
        (kept if is_kept else decayed).add(variable.path.split("/")[-1])
        if not is_kept:
            np.testing.assert_allclose(variable.numpy(), 0.95, rtol=1e-6)
    assert decayed == {"kernel"}
    assert kept == {"beta", "bias", "class_token", "gamma"}


def test_patterns_of_layers_freeze_the_body_for_fine_tuning(make_task):
    task = make_task()
    freeze(task.model, ("stem", "patch_embedding", "class_token", "*_1", "coupled_*"))
    left = {v.path.split("/")[1] for v in task.model.trainable_variables}
    assert left == {"final_norm", "convolution_head", "transformer_head"}


def test_other_numbers_of_classes_are_refused(make_task):
    with refused(match=r"5 class folders in train.*3: a, b, c.*num_classes to 3"):
        make_task(num_classes=5)


@pytest.mark.parametrize("name", [b"caf\xe9", b"two  spaces", b"a\nb", b" begin"])
def test_names_that_a_checkpoint_cannot_hold_are_refused(make_task, image_folder, tmp_path, name):
    image_folder(("a", os.fsdecode(name)), 1, root=tmp_path)
    with refused("with names in UTF-8") as caught:
        make_task(data_url=tmp_path, num_classes=2)
    str(caught.value).encode()


def test_sizes_that_do_not_fit_the_patch_are_refused(make_task):
    with refused("image_size that is a multiple of 16"):
        make_task(image_size=40)


def halves_that_meet(layers, halves):
    """Runs two layers on half a batch each, as two ranks whose sums are added.

    The first run of each finds out what it would send, the second gets the total.
    """
    sent = [None, None]

    def note(index):
        def add(sums):
            sent[index] = sums
            return sums

        return add

    for index, (layer, half) in enumerate(zip(layers, halves, strict=True)):
        layer.sum_over_ranks = note(index)
        statistics = [layer.moving_mean.numpy(), layer.moving_variance.numpy()]
        layer(half, training=True)
        layer.moving_mean.assign(statistics[0])
        layer.moving_variance.assign(statistics[1])
    total = sent[0] + sent[1]
    outputs = []
    for layer, half in zip(layers, halves, strict=True):
        layer.sum_over_ranks = lambda sums: total
        outputs.append(layer(half, training=True))
    return np.concatenate(outputs)


def make_norm(kernel=None):
    layer = BatchNormalization(1e-3)
    layer.normalize_batch = kernel
    layer.build((None, None, None, 3))
    layer.moving_mean.assign([2.0, 3.0, 4.0])
    layer.gamma.assign([0.5, 1.0, 2.0])
    layer.beta.assign([0.0, 1.0, -1.0])
    return layer


@pytest.mark.parametrize("kernel", [None, fused_batch_norm])
@pytest.mark.parametrize(("mean", "deviation"), [(3.0, 2.0), (30.0, 1.0)])
def test_moments_over_ranks_are_those_of_the_whole_batch(rng, mean, deviation, kernel):
    """Also with a mean far from zero, and for the fused kernel of a single rank."""
    images = rng.normal(mean, deviation, (4, 5, 6, 3)).astype("float32")
    whole, ranks = make_norm(), [make_norm(kernel), make_norm(kernel)]
    expected = whole(images, training=True)
    found = halves_that_meet(ranks, (images[:2], images[2:]))
    np.testing.assert_allclose(found, expected, atol=1e-5 if mean < 10 else 1e-3)
    for rank in ranks:
        np.testing.assert_allclose(rank.moving_mean, whole.moving_mean, rtol=1e-5)
        np.testing.assert_allclose(rank.moving_variance, whole.moving_variance, rtol=1e-3)


def test_moments_over_ranks_have_the_gradient_of_the_whole_batch(rng):
    images = tf.constant(rng.normal(3.0, 2.0, (4, 5, 6, 3)), tf.float32)
    wanted = tf.constant(rng.normal(size=images.shape), tf.float32)
    gradients = []
    for sum_over_ranks in (None, tf.identity):
        layer = make_norm()
        layer.sum_over_ranks = sum_over_ranks
        with tf.GradientTape() as tape:
            tape.watch(images)
            loss = tf.reduce_sum(wanted * layer(images, training=True))
        sources = [images, layer.gamma.value, layer.beta.value]
        gradients.append(tape.gradient(loss, sources))
    for ours, expected in zip(*gradients, strict=True):
        np.testing.assert_allclose(ours, expected, atol=1e-4)


def test_batch_norm_is_synchronized_where_there_are_several_processes(task):
    def hooks(task):
        layers = task.model._flatten_layers()
        return [x.sum_over_ranks for x in layers if isinstance(x, BatchNormalization)]

    base = task.config
    training = dataclasses.replace(base.training, synchronize_batch_norm=True)
    config = dataclasses.replace(base, training=training)
    assert all(hooks(VisionTask(config, Rank(0, 2))))
    assert not any(hooks(VisionTask(config, SingleProcess(), needs_evaluation=False)))
    assert not any(hooks(VisionTask(base, Rank(0, 2), needs_evaluation=False)))


def test_batch_norm_in_training_is_the_kernel_of_the_framework(make_task, batch):
    """Loss, gradients and moving statistics do not change."""
    found = []
    for fused in (True, False):
        model = (task := make_task()).model
        layers = [x for x in model._flatten_layers() if isinstance(x, BatchNormalization)]
        assert all(layer.normalize_batch is fused_batch_norm for layer in layers)
        for layer in layers:
            layer.normalize_batch = fused_batch_norm if fused else None
        with tf.GradientTape() as tape:
            loss = task.loss(batch, training=True).loss_sum
        gradients = tape.gradient(loss, [v.value for v in model.trainable_variables])
        statistics = [v.numpy() for v in moving_statistics(model)]
        found.append([loss, *gradients, *statistics])
    for ours, expected in zip(*found, strict=True):
        np.testing.assert_allclose(ours, expected, rtol=1e-3, atol=1e-4)


def test_an_update_from_two_batches_equals_one_from_both(make_task, batch):
    check_parts([make_task(), make_task()], batch, 2)


def test_rematerialized_blocks_have_the_same_gradients(make_task, batch):
    check_rematerialized([make_task(drop_path=0.2), make_task(drop_path=0.2)], batch)
