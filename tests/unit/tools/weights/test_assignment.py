"""Strict assignment, with variables that are a few lines."""

import ml_dtypes
import numpy as np
import pytest

from tests.support.errors import refused
from tools.weights.assignment import (
    CONVOLUTION_1D,
    CONVOLUTION_2D,
    DENSE,
    POINTWISE_2D,
    Layout,
    Link,
    assign,
    extract,
    rename,
)


class Variable:
    def __init__(self, path, *shape):
        self.path, self.shape, self.dtype = path, shape, "float32"
        self.value = np.zeros(shape, "float32")

    def assign(self, value):
        assert value.dtype == self.dtype
        self.value = value

    def __array__(self, dtype=None):
        return self.value


def three_in_one():
    return Layout(
        lambda *parts: np.concatenate([x.T for x in parts], 1),
        lambda x: tuple(part.T for part in np.split(x, 3, axis=1)),
    )


@pytest.mark.parametrize(
    ("layout", "shape", "transformed"),
    [
        (DENSE, (5, 3), (3, 5)),
        (CONVOLUTION_1D, (5, 3, 2), (2, 3, 5)),
        (CONVOLUTION_2D, (5, 3, 2, 4), (2, 4, 3, 5)),
        (POINTWISE_2D, (5, 3, 1, 1), (3, 5)),
    ],
)
def test_layouts_turn_back(rng, layout, shape, transformed):
    tensor = rng.standard_normal(shape).astype("float32")
    variable = Variable("kernel", *transformed)
    links = [Link(variable, ("kernel",), layout)]
    assign([variable], links, {"kernel": tensor})
    np.testing.assert_array_equal(extract(links)["kernel"], tensor)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", ["float32", "float16", "float64", ml_dtypes.bfloat16])
def test_weights_that_are_not_finite_are_refused(value, dtype):
    """Before any variable has changed; what is ignored may hold anything."""
    variables = [Variable("a", 3), Variable("b", 3)]
    links = [Link(variable, (variable.path,)) for variable in variables]
    good = np.ones(3, dtype)
    bad = good.copy()
    bad[1] = value
    with refused("NaN or infinity in 1 tensor: b"):
        assign(variables, links, {"a": good, "b": bad})
    assert not variables[0].value.any()
    assign(variables, links, {"a": good, "b": good, "other": bad}, "other")
    assert variables[1].value.all()


def test_dense_layer_means_the_same(rng):
    kernel, x = rng.standard_normal((5, 3)), rng.standard_normal((2, 3))
    np.testing.assert_allclose(x @ DENSE.read(kernel), np.einsum("oi,bi->bo", kernel, x))


def test_several_tensors_in_one_variable(rng):
    variable = Variable("attention", 4, 6)
    links = [Link(variable, ("q", "k", "v"), three_in_one())]
    tensors = {name: rng.standard_normal((2, 4)).astype("float32") for name in "qkv"}
    report = assign([variable], links, tensors)
    assert report.assigned == ("attention",)
    back = extract(links)
    for name, value in tensors.items():
        np.testing.assert_array_equal(back[name], value)


def test_report_and_types():
    variables = [Variable("a", 2), Variable("head", 3)]
    links = [Link(variables[0], ("x",)), Link(variables[1], ("h",))]
    tensors = {"x": np.ones(2, "float16"), "h": np.ones(4), "step": np.ones(1)}
    report = assign(variables, links, tensors, ignored="step", replaceable="h")
    assert (report.assigned, report.kept, report.ignored) == (("a",), ("head",), ("h", "step"))
    assert variables[0].value.tolist() == [1, 1]
    assert not np.any(variables[1].value)


def test_one_sorted_difference_and_nothing_changed():
    variables = [Variable(name, 2) for name in "abcd"]
    links = [Link(v, (v.path,)) for v in variables]
    tensors = {"a": np.ones(2), "b": np.ones(3), "z": np.ones(1), "y": np.ones(1)}
    with refused() as caught:
        assign(variables, links, tensors, ignored="zz")
    assert str(caught.value) == (
        "Expected the 4 tensors of this model. Received: missing: c, d; unexpected: y, z; "
        "another shape: b [3] for [2]. Choose the architecture, vocabulary or classes that the "
        "weights were trained with."
    )
    assert not any(np.any(v.value) for v in variables)


def test_each_of_several_tensors_has_its_own_shape():
    """Parts that only together have the size of the variable are refused."""
    variable = Variable("attention", 4, 6)
    links = [Link(variable, ("q", "k", "v"), three_in_one())]
    tensors = {"q": np.ones((3, 4)), "k": np.ones((1, 4)), "v": np.ones((2, 4))}
    with refused("another shape: k [1, 4] for [2, 4], q [3, 4] for [2, 4]."):
        assign([variable], links, tensors)


def test_patterns_are_of_whole_names():
    variable = Variable("a", 2)
    links = [Link(variable, ("head.weight",))]
    fits = {"head.weight": np.ones(2)}
    for pattern in ("step", "a_step", "step_b"):
        with refused("unexpected: a_step_b."):
            assign([variable], links, fits | {"a_step_b": np.ones(1)}, ignored=pattern)
    with refused("another shape: head.weight [3] for [2]"):
        assign([variable], links, {"head.weight": np.ones(3)}, replaceable="head")


def test_a_tensor_of_the_right_shape_is_taken_although_it_is_replaceable():
    variable = Variable("head", 2)
    links = [Link(variable, ("head",))]
    report = assign([variable], links, {"head": np.full(2, 5.0)}, "head", replaceable="head")
    assert (report.assigned, report.kept, report.ignored) == (("head",), (), ())
    assert variable.value.tolist() == [5, 5]


def test_a_missing_tensor_is_missed_although_it_is_replaceable():
    with refused("missing: head."):
        assign(
            [variable := Variable("head", 2)],
            [Link(variable, ("head",))],
            {},
            r".*",
            replaceable="head",
        )


def test_the_first_names_of_many_and_how_many_more():
    variables = [Variable(f"v{index}", 1) for index in range(7)]
    with refused("missing: v0, v1, v2, v3, v4 and 2 more."):
        assign(variables, [Link(v, (v.path,)) for v in variables], {})
    with refused("missing: v0, v1, v2, v3, v4."):
        assign(variables[:5], [Link(v, (v.path,)) for v in variables[:5]], {})


def test_links_must_cover_the_model():
    first, second = Variable("a", 1), Variable("b", 1)
    for links in (
        [Link(first, ("a",))],
        [Link(first, ("a",)), Link(first, ("b",)), Link(second, ("c",))],
        [Link(first, ("a",)), Link(second, ("a",))],
        [Link(first, ("a",)), Link(second, ("b",)), Link(Variable("c", 1), ("c",))],
    ):
        with pytest.raises(ValueError, match="not linked exactly once"):
            assign([first, second], links, {})


def test_rename_in_order():
    assert rename("block/kernel", ((r"/", "."), (r"\.kernel$", ".weight"))) == "block.weight"


def test_a_variable_of_several_tensors_is_replaced_where_all_of_them_may_be():
    tensors = {name: np.ones((2, 3)) for name in ("query", "key", "value")}
    for replaceable, kept in (("query|key|value", True), ("query", False), ("query|key", False)):
        variable = Variable("attention", 4, 6)
        links = [Link(variable, ("query", "key", "value"), three_in_one())]
        if kept:
            assert assign([variable], links, tensors, replaceable=replaceable).kept
        else:
            with refused("another shape"):
                assign([variable], links, tensors, replaceable=replaceable)
        assert not variable.value.any()
