"""A SavedModel of one small function, described by a `pipeline.json`."""

import numpy as np
import pytest
import tensorflow as tf

from tests.support.saved_models import save_model

PIPELINE = {
    "family": "toy",
    "convert": {"serving_default": {"dim_range": {"waveforms": [[10, 50]]}}},
}


@pytest.fixture(scope="session")
def native(tmp_path_factory):
    directory = tmp_path_factory.mktemp("export") / "model"
    module = tf.Module()
    kernel = np.random.default_rng(0).standard_normal((5, 1, 8)).astype(np.float32)
    module.kernel = tf.Variable(kernel)

    @tf.function(input_signature=[
        tf.TensorSpec([None, None], tf.float32, "waveforms"),
        tf.TensorSpec([None], tf.int32, "lengths"),
    ])  # fmt: skip
    def serving_default(waveforms, lengths):
        inside = tf.sequence_mask(lengths, tf.shape(waveforms)[1])
        x = tf.where(inside, waveforms, 0.0)[:, :, None]
        y = tf.reduce_sum(tf.nn.relu(tf.nn.conv1d(x, module.kernel, 1, "SAME")), axis=[1])
        return {"sums": y, "doubled": 2 * lengths}

    return save_model(directory, module, {"serving_default": serving_default}, PIPELINE)
