"""One training step: what it changes, what it leaves alone, and that only sums cross processes."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.support.errors import refused
from tools.training.config import LossScaleConfig, OptimizerConfig, TrainingConfig
from tools.training.distributed import SingleProcess
from tools.training.optimizer import Optimizer
from tools.training.precision import LossScale
from tools.training.step import TrainStep, freeze, moving_statistics, seed_model


def make_step(task, processes=None, clip_norm=None, precision="float32", **loss_scale):
    config = TrainingConfig(
        precision=precision,
        optimizer=OptimizerConfig(name="adam", epsilon=1e-3, clip_norm=clip_norm),
    )
    step = TrainStep(
        task,
        config,
        processes or SingleProcess(),
        Optimizer(config.optimizer, task.model.trainable_variables, moving_statistics(task.model)),
        loss_scale=LossScale(LossScaleConfig(**loss_scale), precision),
    )
    batch = task.batch([0])
    step.compile({name: tf.TensorSpec([None, *t.shape[1:]], t.dtype) for name, t in batch.items()})
    return step


def gradient_of(task, batch):
    """The gradient of the mean loss over rows that count, written plainly."""
    variables = [v.value for v in task.model.trainable_variables]
    with tf.GradientTape() as tape:
        sums = task.loss(batch, training=True)
        loss = sums.loss_sum / sums.weight
    return np.concatenate([g.numpy().ravel() for g in tape.gradient(loss, variables)])


def test_a_step_is_one_of_the_optimizer_on_the_mean_loss(line_task):
    task, reference = line_task(), line_task()
    batch = task.batch([0, 1, 2, -1])
    gradient = gradient_of(reference, batch)
    result = make_step(task)(batch, 0.1)
    weights = reference.model.trainable_variables
    optimizer = keras.optimizers.Adam(0.1, epsilon=1e-3, beta_2=0.98)
    parts = np.split(gradient, np.cumsum([np.size(v) for v in weights])[:-1])
    optimizer.apply([p.reshape(v.shape) for p, v in zip(parts, weights, strict=True)], weights)
    for ours, expected in zip(task.model.trainable_variables, weights, strict=True):
        np.testing.assert_allclose(ours.numpy(), expected.numpy(), atol=1e-6)
    sums = line_task().loss(batch, training=True)
    np.testing.assert_allclose(result.loss, sums.loss_sum / 3, rtol=1e-6)
    np.testing.assert_allclose(
        result.metrics["absolute_error"], sums.metrics["absolute_error"] / 3, rtol=1e-6
    )
    np.testing.assert_allclose(result.gradient_norm, np.linalg.norm(gradient), rtol=1e-5)
    np.testing.assert_allclose(result.examples, sums.examples, rtol=1e-6)
    assert (float(result.weight), bool(result.finite)) == (3.0, True)


def test_a_loss_that_is_not_finite_changes_nothing(line_task, variables_of):
    task = line_task([keras.layers.BatchNormalization()], broken=[2])
    step = make_step(task)
    assert bool(step(task.batch([0, 1, 3]), 0.1).finite)
    before, state = variables_of(task.model), step.optimizer.state()
    assert any("moving_mean" in name for name in before)
    result = step(task.batch([0, 2, 3]), 0.1)
    assert not bool(result.finite)
    for name, value in variables_of(task.model).items():
        np.testing.assert_array_equal(value, before[name], err_msg=name)
    for name, value in step.optimizer.state()["optimizer"].items():
        np.testing.assert_array_equal(value, state["optimizer"][name], err_msg=name)
    assert bool(step(task.batch([0, 1, 3]), 0.1).finite)
    assert np.any(variables_of(task.model)["line/output/kernel"] != before["line/output/kernel"])


def test_it_names_the_rows_that_are_not_finite(line_task):
    task = line_task(broken=[2])
    result = make_step(task)(task.batch([0, 2, 3]), 0.1)
    np.testing.assert_array_equal(np.isfinite(result.examples), [True, False, True])
    assert not np.isfinite(result.loss)


@pytest.mark.parametrize("broken", ["gradient_norm", "loss"])
def test_a_gradient_or_a_loss_alone_that_is_not_finite_changes_nothing(
    line_task, variables_of, broken
):
    task = line_task()
    plain = task.loss

    def loss(batch, training):
        sums = plain(batch, training)
        if broken == "loss":
            added = tf.constant(np.inf)
        else:  # the square root of zero is zero, its slope infinite
            added = tf.sqrt(tf.reduce_sum(task.model.trainable_variables[0].value * 0.0))
        return sums._replace(loss_sum=sums.loss_sum + added)

    task.loss = loss
    step, before = make_step(task), variables_of(task.model)
    result = step(task.batch([0, 1]), 0.1)
    assert np.isfinite(result.loss if broken == "gradient_norm" else result.gradient_norm)
    assert not bool(result.finite)
    for name, value in variables_of(task.model).items():
        np.testing.assert_array_equal(value, before[name], err_msg=name)


@pytest.mark.parametrize("share", [0.25, 4.0])
def test_clipping_shortens_long_gradients_only(line_task, share):
    task, reference = line_task(), line_task()
    batch = task.batch([0, 1, 2])
    gradient = gradient_of(reference, batch)
    norm = np.linalg.norm(gradient)
    step = make_step(task, clip_norm=share * norm)
    np.testing.assert_allclose(step(batch, 0.1).gradient_norm, norm, rtol=1e-5)
    used = moments(step, task) / 0.1  # one update from zero with beta_1 = 0.9
    np.testing.assert_allclose(used, gradient * min(1.0, share), rtol=1e-4)


class Recorder(SingleProcess):
    """Keeps what a process would send."""

    size = 2

    def sum(self, tensors):
        self.sent = tensors
        return tensors


class Adder(SingleProcess):
    """Adds what another process has sent."""

    size = 2

    def __init__(self, other):
        self.other = other

    def sum(self, tensors):
        return [mine + theirs for mine, theirs in zip(tensors, self.other.sent, strict=True)]


@pytest.fixture
def eager_functions():
    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


@pytest.mark.parametrize("precision", ["float32", "mixed_float16"])
def test_two_half_batches_equal_a_whole_one(line_task, eager_functions, precision):
    whole, first, second = (line_task() for _ in range(3))
    recorder = Recorder()
    make_step(first, recorder, precision=precision)(first.batch([0, 1, 2, -1]), 0.1)
    half = make_step(second, Adder(recorder), precision=precision)
    of_two = half(second.batch([3, -1, -1, -1]), 0.1)
    of_one = make_step(whole)(whole.batch([0, 1, 2, 3]), 0.1)
    assert float(of_two.weight) == float(of_one.weight) == 4.0
    np.testing.assert_allclose(of_two.loss, of_one.loss, rtol=1e-6)
    np.testing.assert_allclose(of_two.gradient_norm, of_one.gradient_norm, rtol=1e-5)
    np.testing.assert_allclose(
        of_two.metrics["absolute_error"], of_one.metrics["absolute_error"], rtol=1e-6
    )
    for ours, expected in zip(
        second.model.trainable_variables, whole.model.trainable_variables, strict=True
    ):
        np.testing.assert_allclose(ours.numpy(), expected.numpy(), atol=1e-6)


def test_batches_of_any_length_are_traced_once(line_task):
    task = line_task()
    plain, traces = task.loss, []
    task.loss = lambda batch, training: traces.append(training) or plain(batch, training)
    step = make_step(task)
    for indices, rate in (([0, 1], 0.1), ([0, 1, 2], 0.2)):
        assert float(step(task.batch(indices), rate).weight) == len(indices)
    assert traces == [True]


def test_a_batch_of_masked_rows_only_is_harmless(line_task):
    task = line_task()
    result = make_step(task)(task.batch([-1, -1]), 0.0)
    assert (float(result.loss), float(result.weight), bool(result.finite)) == (0.0, 0.0, True)


def moments(step, task):
    """The first moments of all variables, which one update makes of the gradient alone."""
    found = step.optimizer.state()["optimizer"]
    return np.concatenate(
        [found[f"first_moment/{v.path}"].ravel() for v in task.model.trainable_variables]
    )


@pytest.mark.parametrize(
    ("precision", "tolerance"), [("mixed_float16", 2e-3), ("mixed_bfloat16", 2e-2)]
)
def test_mixed_precision_takes_nearly_the_step_of_float32(line_task, precision, tolerance):
    """Whatever the loss scale, which the gradient must not show."""
    tasks = [
        line_task([keras.layers.Dense(4, "tanh", dtype=dtype, name="hidden")], dtype=dtype)
        for dtype in (precision, "float32")
    ]
    batch = tasks[0].batch([0, 1, 2, -1])
    steps = [
        make_step(tasks[0], precision=precision, clip_norm=2.0, initial=256.0),
        make_step(tasks[1], clip_norm=2.0),
    ]
    ours, expected = (step(batch, 0.1) for step in steps)
    assert tasks[0].model.get_layer("output").compute_dtype == precision.removeprefix("mixed_")
    assert float(expected.gradient_norm) > 2.0
    np.testing.assert_allclose(ours.gradient_norm, expected.gradient_norm, rtol=tolerance)
    np.testing.assert_allclose(ours.loss, expected.loss, rtol=tolerance)
    gradients = [moments(step, task) for step, task in zip(steps, tasks, strict=True)]
    difference = np.linalg.norm(gradients[0] - gradients[1])
    assert 0 < difference < tolerance * np.linalg.norm(gradients[1])
    for mine, full in zip(*(task.model.trainable_variables for task in tasks), strict=True):
        assert mine.dtype == "float32"
        np.testing.assert_allclose(mine.numpy(), full.numpy(), atol=tolerance)


def test_the_mean_is_scaled_where_the_sum_would_overflow(line_task):
    tasks = [line_task(num_rows=64, dtype=dtype) for dtype in ("mixed_float16", "float32")]
    for task in tasks:
        task.targets += 3000.0  # the sum's gradient of the bias is -384000, the mean's -6000
    fixed = {"mode": "fixed", "initial": 1.0}
    steps = [make_step(tasks[0], precision="mixed_float16", **fixed), make_step(tasks[1])]
    batch = tasks[0].batch(range(64))
    ours, expected = (step(batch, 0.1) for step in steps)
    assert bool(ours.finite)
    np.testing.assert_allclose(ours.gradient_norm, expected.gradient_norm, rtol=2e-3)


def test_a_scale_below_1_takes_what_is_beyond_float16(line_task):
    tasks = [line_task(dtype=dtype) for dtype in ("mixed_float16", "float32")]
    for task in tasks:
        task.targets[:] = 2e5
    steps = [make_step(tasks[0], precision="mixed_float16", initial=1.0), make_step(tasks[1])]
    made = [bool(steps[0](tasks[0].batch([0]), 0.0).finite) for _ in range(6)]
    assert not any(made[:3]) and made[-1], made  # 4e5 fits at an eighth, or a sixteenth
    ours, expected = (step(tasks[0].batch([0]), 0.0) for step in steps)
    np.testing.assert_allclose(ours.gradient_norm, expected.gradient_norm, rtol=2e-3)


def test_a_float16_overflow_halves_the_scale_until_it_fits(line_task, variables_of):
    task = line_task(dtype="mixed_float16")
    step = make_step(task, precision="mixed_float16", initial=2.0**20)
    before = variables_of(task.model)
    made = []
    for _ in range(20):
        made.append(bool(step(task.batch([0, 1, 2]), 0.1).finite))
        if made[-1]:
            break
        for name, value in variables_of(task.model).items():
            np.testing.assert_array_equal(value, before[name], err_msg=name)
    assert 1 < len(made) < 20
    assert float(step.loss_scale.scale) == 2.0 ** (20 - (len(made) - 1))


def dropouts():
    return keras.Sequential(
        [keras.Input((500,)), keras.layers.Dropout(0.5), keras.layers.Dropout(0.5)]
    )


def draws(model, count=3):
    return [np.asarray(model(np.ones((1, 500), "float32"), training=True)) for _ in range(count)]


def test_randomness_belongs_to_seed_rank_layer_and_call():
    model, again = dropouts(), dropouts()
    seed_model(model, 1, 0, None)
    seed_model(again, 1, 0, None)
    first = draws(model)
    np.testing.assert_array_equal(first, draws(again))
    assert np.any(first[0] != first[1])
    assert np.mean(first[0] != 0) < 0.35, "both layers drew the same"
    for seed, rank in ((2, 0), (1, 1)):
        seed_model(model, seed, rank, None)
        assert np.any(draws(model, 1)[0] != first[0])
    seed_model(model, 1, 0, [2, 2])
    np.testing.assert_array_equal(draws(model, 1)[0], first[2])


def test_counters_of_another_model_are_refused():
    with refused("random layers"):
        seed_model(dropouts(), 1, 0, [2, 2, 2])


def small_model():
    inner = keras.Sequential(
        # Without a bend between them, a normalization would take the bias away again.
        [
            keras.layers.Dense(3, "elu", name="dense"),
            keras.layers.BatchNormalization(name="norm"),
        ],
        name="block_0",
    )
    model = keras.Sequential(
        [keras.Input((3,)), inner, keras.layers.Dense(1, name="output")], name="line"
    )
    return model


@pytest.mark.parametrize(
    ("patterns", "frozen"),
    [
        ((), set()),
        (("block_?",), {"dense/kernel", "dense/bias", "norm/gamma", "norm/beta"}),
        (("*norm", "output/bias"), {"norm/gamma", "norm/beta", "output/bias"}),
    ],
)
def test_frozen_layers_stay_as_they_are(line_task, variables_of, patterns, frozen):
    task = line_task()
    task.model = small_model()
    statistics = {v.path for v in moving_statistics(task.model)}
    names = freeze(task.model, patterns)
    assert {"/".join(name.split("/")[-2:]) for name in names} == frozen
    before = variables_of(task.model)
    make_step(task)(task.batch([0, 1, 2]), 0.1)
    moved = {
        name for name, value in variables_of(task.model).items() if np.any(value != before[name])
    }
    still = before.keys() - moved
    expected = {name for name in before if any(name.endswith(x) for x in frozen)}
    if any("norm" in x for x in frozen):
        expected |= statistics
    assert still == expected


@pytest.mark.parametrize("patterns", [("block_7",), ("block_0", "outptu"), ("*",)])
def test_patterns_that_freeze_nothing_or_everything_are_refused(patterns):
    with refused("freeze"):
        freeze(small_model(), patterns)
