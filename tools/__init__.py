"""Libraries and programs shared by all model families."""

import os
import sys

if "keras" not in sys.modules:
    # Use TensorFlow and Keras's defaults. Settings in the environment or in `~/.keras/keras.json`
    # are meant for other projects.
    os.environ["KERAS_BACKEND"], os.environ["KERAS_HOME"] = "tensorflow", os.devnull
    os.environ.pop("TF_USE_LEGACY_KERAS", None)
