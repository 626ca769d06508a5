"""The flat optimizer against Keras's own, the average against NumPy, and both in checkpoints."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.support.errors import refused
from tools.config.loader import load
from tools.training.config import OptimizerConfig
from tools.training.optimizer import Optimizer

SHAPES = {"kernel": (3, 2), "bias": (2,), "gamma": (5,), "embeddings": (4, 3), "scale": ()}
SHAPES["class_token"] = (1, 1, 4)
NOT_DECAYED = {"bias", "gamma", "embeddings", "scale", "class_token"}


def make_variables(rng):
    return [
        keras.Variable(rng.normal(size=shape).astype("float32"), name=name)
        for name, shape in SHAPES.items()
    ]


def make_gradients(rng, num_steps):
    return [
        [rng.normal(size=s).astype("float32") for s in SHAPES.values()] for _ in range(num_steps)
    ]


@pytest.fixture
def gradients(rng):
    return make_gradients(rng, 6)


def train(optimizer, gradients, learning_rate=0.1):
    step = tf.function(lambda *g: optimizer.apply(optimizer.flatten(g), learning_rate))
    for gradient in gradients:
        step(*(tf.constant(g) for g in gradient))


def values(optimizer):
    return [v.numpy() for v in optimizer.variables]


def test_momentum_equals_keras(rng, gradients):
    variables = make_variables(rng)
    copies = [keras.Variable(v.numpy(), name=v.name) for v in variables]
    config = OptimizerConfig(name="momentum", momentum=0.7, weight_decay=0.3)
    optimizer = Optimizer(config, variables)
    train(optimizer, gradients)
    assert not any("second" in name for name in optimizer.state()["optimizer"])
    reference = keras.optimizers.SGD(0.1, momentum=0.7)
    reference.build(copies)
    for gradient in gradients:
        pulled = [
            tf.constant(g) + (0.0 if v.name in NOT_DECAYED else 0.3) * v.value
            for g, v in zip(gradient, copies, strict=True)
        ]
        reference.apply_gradients(zip(pulled, copies, strict=True))
    for ours, expected in zip(variables, copies, strict=True):
        np.testing.assert_allclose(ours.numpy(), expected.numpy(), atol=1e-6, err_msg=ours.name)


@pytest.mark.parametrize("name", ["adamw", "momentum"])
def test_layer_decay_is_a_learning_rate_for_each_depth(rng, gradients, name):
    """Every variable moves as it does alone at the rate of its depth."""
    variables, depths = make_variables(rng), [0, 2, 1, 0, 3, 1]
    start = [v.numpy() for v in variables]
    options = {"name": name, "weight_decay": 0.3}
    optimizer = Optimizer(OptimizerConfig(**options, layer_decay=0.5), variables, (), depths)
    train(optimizer, gradients)
    for index, depth in enumerate(depths):
        alone = keras.Variable(start[index], name=variables[index].name)
        single = Optimizer(OptimizerConfig(**options), [alone])
        train(single, [[g[index]] for g in gradients], 0.1 * 0.5 ** (3 - depth))
        np.testing.assert_allclose(variables[index].numpy(), alone.numpy(), atol=1e-6)


def test_statistics_are_averaged_with_the_weights(rng, gradients):
    statistic = keras.Variable(np.float32([4.0, 8.0]), name="moving_mean", trainable=False)
    optimizer = Optimizer(OptimizerConfig(average_decay=0.3), make_variables(rng), [statistic])
    expected = statistic.numpy()
    for number, gradient in enumerate(gradients, start=1):
        statistic.assign(statistic.numpy() + number)
        train(optimizer, [gradient])
        decay = min(0.3, (1 + number) / (10 + number))
        expected = decay * expected + (1 - decay) * statistic.numpy()
    latest = statistic.numpy()
    with optimizer.averaged():
        np.testing.assert_allclose(statistic.numpy(), expected, rtol=1e-6)
    np.testing.assert_array_equal(statistic.numpy(), latest)
    again = Optimizer(
        OptimizerConfig(average_decay=0.3),
        make_variables(rng),
        [keras.Variable(np.zeros(2, "float32"), name="moving_mean", trainable=False)],
    )
    again.load_state(optimizer.state(), "test")
    with again.averaged():
        np.testing.assert_allclose(again.statistics[0].numpy(), expected, rtol=1e-6)


@pytest.mark.parametrize("name", ["adam", "adamw"])
def test_equals_keras(rng, gradients, name):
    variables = make_variables(rng)
    copies = [keras.Variable(v.numpy(), name=v.name) for v in variables]
    config = OptimizerConfig(name=name, beta_1=0.8, beta_2=0.95, epsilon=1e-6, weight_decay=0.3)
    train(Optimizer(config, variables), gradients)
    arguments = {"learning_rate": 0.1, "beta_1": 0.8, "beta_2": 0.95, "epsilon": 1e-6}
    if name == "adam":
        reference = keras.optimizers.Adam(**arguments)
    else:
        reference = keras.optimizers.AdamW(**arguments, weight_decay=0.3)
        reference.exclude_from_weight_decay(var_list=[v for v in copies if v.name in NOT_DECAYED])
    reference.build(copies)
    for gradient in gradients:
        reference.apply_gradients(zip(map(tf.constant, gradient), copies, strict=True))
    for ours, expected in zip(variables, copies, strict=True):
        np.testing.assert_allclose(ours.numpy(), expected.numpy(), atol=1e-6, err_msg=ours.name)


def test_learning_rate_zero_moves_nothing(rng, gradients):
    optimizer = Optimizer(OptimizerConfig(weight_decay=0.3), make_variables(rng))
    before = values(optimizer)
    train(optimizer, gradients, learning_rate=0.0)
    for now, then in zip(values(optimizer), before, strict=True):
        np.testing.assert_array_equal(now, then)


def test_average_is_an_exponential_one_with_warm_up(rng, gradients):
    optimizer = Optimizer(OptimizerConfig(average_decay=0.3), make_variables(rng))
    expected = values(optimizer)
    for number, gradient in enumerate(gradients, start=1):
        train(optimizer, [gradient])
        decay = min(0.3, (1 + number) / (10 + number))
        assert (decay < 0.3) == (number < 3)
        expected = [
            decay * old + (1 - decay) * new
            for old, new in zip(expected, values(optimizer), strict=True)
        ]
    weights = values(optimizer)
    with optimizer.averaged():
        for value, average in zip(values(optimizer), expected, strict=True):
            np.testing.assert_allclose(value, average, atol=1e-6)
        assert not np.allclose(values(optimizer)[0], weights[0])
    for value, weight in zip(values(optimizer), weights, strict=True):
        np.testing.assert_array_equal(value, weight)


def test_weights_come_back_after_an_evaluation_that_failed(rng, gradients):
    optimizer = Optimizer(OptimizerConfig(average_decay=0.9), make_variables(rng))
    train(optimizer, gradients)
    weights = values(optimizer)
    with pytest.raises(ZeroDivisionError), optimizer.averaged():
        raise ZeroDivisionError
    np.testing.assert_array_equal(values(optimizer)[0], weights[0])


def test_without_an_average_evaluation_sees_the_weights(rng, gradients):
    optimizer = Optimizer(OptimizerConfig(), make_variables(rng))
    train(optimizer, gradients)
    weights = values(optimizer)
    with optimizer.averaged():
        np.testing.assert_array_equal(values(optimizer)[0], weights[0])
    assert "average" not in optimizer.state()


def test_a_state_continues_exactly(rng, gradients):
    config = OptimizerConfig(average_decay=0.9, weight_decay=0.1)
    unbroken = Optimizer(config, make_variables(rng))
    train(unbroken, gradients[:3])
    resumed = Optimizer(config, make_variables(np.random.default_rng(99)))
    for to, source in zip(resumed.variables, unbroken.variables, strict=True):
        to.assign(source.numpy())
    resumed.load_state(unbroken.state(), "test")
    for optimizer in (unbroken, resumed):
        train(optimizer, gradients[3:])
    for now, expected in zip(values(resumed), values(unbroken), strict=True):
        np.testing.assert_array_equal(now, expected)
    state, expected = resumed.state(), unbroken.state()
    assert state.keys() == {"optimizer", "average"}
    for group, arrays in expected.items():
        assert state[group].keys() == arrays.keys()
        for name, array in arrays.items():
            np.testing.assert_array_equal(state[group][name], array, err_msg=name)


def test_an_average_starts_at_the_weights_of_a_run_that_had_none(rng, gradients):
    statistic = keras.Variable(np.float32([4.0, 8.0]), name="moving_mean", trainable=False)
    plain = Optimizer(OptimizerConfig(), make_variables(rng), [statistic])
    train(plain, gradients)
    averaging = Optimizer(OptimizerConfig(average_decay=0.9), plain.variables, [statistic])
    train(averaging, gradients)
    statistic.assign([5.0, 9.0])
    averaging.load_state(plain.state(), "test")
    weights = values(averaging)
    with averaging.averaged():
        np.testing.assert_array_equal(values(averaging)[0], weights[0])
        np.testing.assert_array_equal(statistic.numpy(), [5.0, 9.0])


@pytest.mark.parametrize(
    ("group", "change", "message"),
    [
        ("optimizer", lambda g: g.pop("first_moment/kernel"), "missing: first_moment/kernel"),
        ("optimizer", lambda g: g.update(other=np.zeros(2)), "unexpected: other"),
        (
            "optimizer",
            lambda g: g.update({"second_moment/bias": np.zeros(3)}),
            r"another shape: second_moment/bias \[3\] for \[2\]",
        ),
        ("average", lambda g: g.pop("kernel"), "missing: kernel"),
    ],
)
def test_a_state_that_does_not_fit_is_refused(rng, group, change, message):
    optimizer = Optimizer(OptimizerConfig(average_decay=0.9), make_variables(rng))
    state = optimizer.state()
    change(state[group])
    with refused(match=f"in the checkpoint of yesterday.*{message}"):
        optimizer.load_state(state, "the checkpoint of yesterday")


def test_variables_without_a_gradient_and_with_a_sparse_one(rng):
    table = keras.Variable(rng.normal(size=(4, 3)).astype("float32"), name="embeddings")
    unused = keras.Variable(np.ones(2, "float32"), name="unused")
    optimizer = Optimizer(OptimizerConfig(), [unused, table])
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(tf.gather(table.value, [1, 1, 3]))
    gradients = tape.gradient(loss, [v.value for v in optimizer.variables])
    assert gradients[0] is None
    flat = optimizer.flatten(gradients)
    np.testing.assert_array_equal(flat, [0, 0, *[0, 0, 0], *[2, 2, 2], *[0, 0, 0], *[1, 1, 1]])
    before = table.numpy()
    optimizer.apply(flat, 0.1)
    np.testing.assert_array_equal(unused.numpy(), [1, 1])
    np.testing.assert_array_equal(np.any(table.numpy() != before, axis=1), [0, 1, 0, 1])


@pytest.mark.parametrize(
    "arguments",
    [
        {"beta_1": 1.0},
        {"momentum": -0.1},
        {"layer_decay": 0.0},
        {"layer_decay": 1.1},
        {"weight_decay": -1e-3},
        {"epsilon": 0.0},
        {"epsilon": np.inf},
        {"weight_decay": np.inf},
        {"average_decay": 1.0},
        {"clip_norm": 0.0},
    ],
)
def test_impossible_optimizers_are_refused(arguments):
    with refused(f"Expected {next(iter(arguments))} "):
        load(OptimizerConfig, None, arguments)


@pytest.mark.parametrize("name", ["adamw", "momentum"])
def test_weight_decay_keeps_one_byte_for_each_parameter(rng, name):
    """As floats, the factors would take as much memory as the weights."""
    optimizer = Optimizer(OptimizerConfig(name=name, weight_decay=0.1), make_variables(rng))
    constants = [x for x in vars(optimizer).values() if tf.is_tensor(x)]
    kept = [x for x in constants if not isinstance(x, tf.Variable)]
    assert sum(x.numpy().nbytes for x in kept) == optimizer.num_parameters
