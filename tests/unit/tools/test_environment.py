"""Settings of Keras for other projects change nothing here."""

import json
import os
import subprocess
import sys

import pytest

LOOK = """
import tools, keras, os
print(keras.config.floatx(), keras.config.image_data_format(), keras.config.backend())
import tensorflow as tf
print(tf.keras.__name__)
"""


@pytest.mark.parametrize(
    ("settings", "variables"),
    [
        ({"floatx": "float16", "image_data_format": "channels_first"}, {"KERAS_BACKEND": "jax"}),
        ({"backend": "torch", "floatx": "float64"}, {"TF_USE_LEGACY_KERAS": "1"}),
    ],
)
def test_keras_is_as_it_comes(project, tmp_path, settings, variables):
    (tmp_path / ".keras").mkdir()
    whole = {"floatx": "float32", "epsilon": 1e-7, "backend": "tensorflow"} | settings
    (tmp_path / ".keras" / "keras.json").write_text(json.dumps(whole))
    environment = {x: y for x, y in os.environ.items() if not x.startswith("KERAS_")}
    environment |= {"HOME": str(tmp_path), **variables}
    found = subprocess.run(
        [sys.executable, "-c", LOOK], cwd=project, env=environment, capture_output=True, text=True
    )
    assert found.stdout.split("\n")[0] == "float32 channels_last tensorflow", found.stderr
    assert found.stdout.split("\n")[1] == "keras._tf_keras.keras", "that of this Keras"
