"""What an exported vision Conformer computes, and what it says of itself."""

import math
from collections.abc import Iterable
from dataclasses import asdict

import tensorflow as tf

from tools.errors import UserError
from vision.classes import Classes
from vision.config import PreprocessingConfig, VisionConfig
from vision.model import CHANNELS, VisionConformer

LAYOUTS = {"NHWC": "images", "NCHW": "input"}  # with the name of the input
METADATA_KEY = "pipeline"  # of an ONNX file, for what a SavedModel has in its pipeline.json
OUTPUTS = ("logits", "probabilities", "heads")
HEADS = ("convolution_head", "transformer_head")
PREDICTED = -1  # for `activation_map`: the class that the model chooses
_NUM_ANSWERS = 5  # of `serve_bytes`, best first


class Signatures:
    """The signatures of an exported classifier: any batch, one size of image.

    Encoder and heads are functions of their own, so that an export holds each graph once. Without
    `serve_bytes` where images are turned by EXIF, which TensorFlow does not read.

    Args:
        model: built, float32.
        preprocessing: of its inputs.
        classes: names for `serve_bytes`; without, it answers with numbers.
        layout: of images; a key of `LAYOUTS`.
        outputs: of `serving_default`: the sum of both heads (`logits`), its softmax
            (`probabilities`), or the sum with each head beside it (`heads`).
    """

    def __init__(
        self,
        model: VisionConformer,
        preprocessing: PreprocessingConfig,
        classes: Classes,
        layout: str = "NHWC",
        *,
        outputs: str = "logits",
    ):
        self._model, self._preprocessing, self._layout = model, preprocessing, layout
        names = classes.names or [str(number) for number in range(model.num_classes)]
        self._names, self._outputs = names, outputs
        side = preprocessing.image_size
        if side % model.patch_size:
            raise UserError.expected(
                f"an image_size that is a multiple of {model.patch_size}", side, "Correct it"
            )
        inside = tf.TensorSpec((None, side, side, CHANNELS), tf.float32)
        self._encode = tf.function(model.encode, input_signature=[inside], autograph=False)
        shape = inside.shape if layout == "NHWC" else (None, CHANNELS, side, side)
        images = tf.TensorSpec(shape, tf.float32, LAYOUTS[layout])
        self.functions = {
            name: tf.function(function, input_signature=specs, autograph=False)
            for name, function, specs in (
                ("serving_default", self._answer, [images]),
                ("heads", self._heads, [images]),
                ("serve_bytes", self._serve_bytes, [tf.TensorSpec([None], tf.string, "bytes")]),
                (
                    "activation_map",
                    self._activation_map,
                    [images, tf.TensorSpec([None], tf.int32, "classes")],
                ),
            )
        }
        if preprocessing.exif_orientation:
            del self.functions["serve_bytes"]

    def concrete(self, names: Iterable[str] | None = None) -> dict:
        """Traces some or all of the functions."""
        return {
            name: self.functions[name].get_concrete_function() for name in names or self.functions
        }

    def _channels_last(self, images):
        return images if self._layout == "NHWC" else tf.transpose(images, (0, 2, 3, 1))

    def _heads(self, images):
        return self._classify(*self._encode(self._channels_last(images)))

    def _classify(self, feature_map, tokens):
        convolution, transformer = self._model.classify(feature_map, tokens)
        return {
            "logits": convolution + transformer,
            "convolution_logits": convolution,
            "transformer_logits": transformer,
        }

    def _answer(self, images):
        heads = self._heads(images)
        if self._outputs == "heads":
            return heads
        logits = heads["logits"]
        if self._outputs == "probabilities":
            return {"probabilities": tf.nn.softmax(logits)}
        return {"logits": logits}

    def _serve_bytes(self, bytes):
        """Reads JPEG or PNG; the best classes of each image, by name and probability."""
        side = self._preprocessing.image_size
        spec = tf.TensorSpec((side, side, CHANNELS), tf.float32)
        images = tf.map_fn(self.read, bytes, fn_output_signature=spec)
        logits = self._classify(*self._encode(images))["logits"]
        count = min(_NUM_ANSWERS, len(self._names))
        best = tf.math.top_k(tf.nn.softmax(logits), count)
        return {
            "probabilities": best.values,
            "classes": best.indices,
            "class_names": tf.gather(tf.constant(self._names), best.indices),
        }

    def read(self, contents):
        """Decodes and resizes like `images.read_image`, but for single values a level apart."""
        config, side = self._preprocessing, self._preprocessing.image_size
        image = tf.io.decode_jpeg(contents, CHANNELS, dct_method="INTEGER_ACCURATE")  # or PNG
        sizes = tf.shape(image)[:2]
        short, size = tf.reduce_min(sizes), config.resized_size
        sizes = tf.where(sizes == short, size, size * sizes // short)
        method = {"lanczos": "lanczos3"}.get(config.interpolation, config.interpolation)
        image = tf.cast(image, tf.float32)
        for size in ((tf.shape(image)[0], sizes[1]), sizes):  # PIL rounds after each direction
            image = tf.cast(tf.image.resize(image, size, method, antialias=True), tf.float32)
            image = tf.clip_by_value(tf.floor(image + 0.5), 0.0, 255.0)
        top_left = tf.cast(tf.round((sizes - side) / 2), tf.int32)
        image = tf.slice(image, tf.concat([top_left, [0]], 0), (side, side, CHANNELS))
        return (image / 255 - tf.constant(config.mean)) / tf.constant(config.std)

    def _activation_map(self, images, classes):
        """How much each place speaks for a class, in the two branches.

        Each head is linear behind its pooling, so it can be applied to every place: to the cells of
        the last feature map, and to the tokens of the patches in place of the class token.

        Source: Zhou et al., Learning deep features for discriminative localization (2016).
        """
        model = self._model
        feature_map, tokens = self._encode(self._channels_last(images))
        predicted = tf.argmax(self._classify(feature_map, tokens)["logits"], -1, tf.int32)
        classes = tf.where(classes == PREDICTED, predicted, classes)
        convolution, transformer = (
            tf.gather(tf.convert_to_tensor(head.kernel), classes, axis=1)
            for head in (model.convolution_head, model.transformer_head)
        )
        patches = model.final_norm(tokens[:, 1:])
        cells = self._preprocessing.image_size // model.patch_size
        transformer_map = tf.einsum("bpd,db->bp", patches, transformer)
        return {
            "classes": classes,
            "convolution_map": tf.einsum("bhwc,cb->bhw", feature_map, convolution),
            "transformer_map": tf.reshape(transformer_map, (-1, cells, cells)),
        }


def pipeline_description(
    config: VisionConfig,
    model: VisionConformer,
    classes: Classes,
    layout: str = "NHWC",
    *,
    outputs: str = "logits",
) -> dict:
    """What converters, runners and servers need to know of the model."""
    return {
        "family": "vision",
        "kind": "classifier",
        "architecture": config.model.arch,
        "layout": layout,
        "input": LAYOUTS[layout],
        "outputs": outputs,
        "preprocessing": asdict(config.preprocessing),
        "num_classes": model.num_classes,
        "class_names": classes.names,
        "class_folders": classes.folders,
        # Nothing but the batch is free. Behind the heads no layer evens out what 8 bits lose.
        "convert": {"serving_default": {"dim_range": {}, "keep_in_float": list(HEADS)}},
        "num_parameters": sum(math.prod(x.shape) for x in model.trainable_variables),
    }
