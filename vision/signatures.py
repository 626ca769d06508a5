"""Signatures and description (`pipeline.json`) of an exported vision Conformer."""

import math
from collections.abc import Iterable
from dataclasses import asdict

import tensorflow as tf

from tools.conversion.pipeline import precision_of_policy
from tools.errors import UserError
from vision.classes import Classes
from vision.config import PreprocessingConfig, VisionConfig
from vision.model import CHANNELS, VisionConformer

LAYOUTS = {"NHWC": "images", "NCHW": "input"}  # layout: name of the input
OUTPUTS = ("logits", "probabilities", "heads")
HEADS = ("convolution_head", "transformer_head")
PREDICTED = -1  # class number that selects the predicted class in `activation_map`
_NUM_ANSWERS = 5  # number of classes that `serve_bytes` returns


class Signatures:
    """The signatures of an exported classifier, with dynamic batch size and fixed image size.

    The encoder and the heads are separate functions, so that an export contains each graph once.
    If images are rotated by EXIF orientation, there is no `serve_bytes`, because TensorFlow cannot
    read EXIF data.

    Args:
        model: a built model of any precision.
        preprocessing: preprocessing of the images.
        classes: class names that `serve_bytes` returns; without names it returns class numbers.
        layout: layout of the input images, a key of `LAYOUTS`.
        outputs: outputs of `serving_default`: `logits` (sum of both heads), `probabilities`
            (softmax of the sum), or `heads` (the sum and the logits of each head).

    Raises:
        UserError: the image size is not a multiple of the patch size.
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
                f"an image_size that is a multiple of {model.patch_size}",
                side,
                "Correct image_size",
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
        """Returns traced functions by signature name; all signatures if `names` is None."""
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
        """Classifies JPEG or PNG files; returns the best classes with names and probabilities."""
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
        """Reads an image file like `images.read_image`. Values can differ by one gray level.

        Args:
            contents: [] string, content of a JPEG or PNG file.

        Returns:
            `[S, S, 3]` float32, normalized.
        """
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
        """Computes class activation maps of both branches.

        Each head is a linear layer. It is applied to each cell of the last feature map instead of
        the average over all cells, and to each patch token instead of the class token.

        Source: Zhou et al., Learning deep features for discriminative localization (2016).
        """
        model = self._model
        feature_map, tokens = self._encode(self._channels_last(images))
        predicted = tf.argmax(self._classify(feature_map, tokens)["logits"], -1, tf.int32)
        feature_map = tf.cast(feature_map, tf.float32)
        classes = tf.where(classes == PREDICTED, predicted, classes)
        convolution, transformer = (
            tf.gather(tf.convert_to_tensor(head.kernel), classes, axis=1)
            for head in (model.convolution_head, model.transformer_head)
        )
        patches = tf.cast(model.final_norm(tokens[:, 1:]), tf.float32)
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
    """Returns the content of `pipeline.json`: what converters, runners and servers read.

    Args:
        config: configuration of the model and its preprocessing.
        model: a built model.
        classes: names of the classes.
        layout: see `Signatures`.
        outputs: see `Signatures`.
    """
    return {
        "family": "vision",
        "kind": "classifier",
        "precision": precision_of_policy(model.dtype_policy.name),
        "architecture": config.model.arch,
        "layout": layout,
        "input": LAYOUTS[layout],
        "outputs": outputs,
        "preprocessing": asdict(config.preprocessing),
        "num_classes": model.num_classes,
        "class_names": classes.names,
        "class_folders": classes.folders,
        # Only the batch size is dynamic. The heads stay in float, because no later layer could
        # reduce their quantization errors.
        "convert": {"serving_default": {"dim_range": {}, "keep_in_float": list(HEADS)}},
        "num_parameters": sum(math.prod(x.shape) for x in model.trainable_variables),
    }
