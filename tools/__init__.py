"""Libraries and programs shared by all model families."""

import os
import sys

if "keras" not in sys.modules:
    # All of it runs on TensorFlow with Keras' own defaults, whatever a user's environment and
    # `~/.keras/keras.json` say for other projects.
    os.environ["KERAS_BACKEND"], os.environ["KERAS_HOME"] = "tensorflow", os.devnull
    os.environ.pop("TF_USE_LEGACY_KERAS", None)
