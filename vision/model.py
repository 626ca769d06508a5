"""The vision Conformer: a convolution and a transformer branch, coupled, each with a classifier."""

from collections.abc import Mapping

import keras
import numpy as np
from keras import ops

from tools.errors import UserError
from vision.attention import TransformerBlock, projection
from vision.blocks import CoupledBlock, bias_initializer, flatten
from vision.convolution import ConvolutionBlock, ConvolutionNorm, kernel_initializer

STEM_FILTERS = 64
STEM_EPSILON = FINAL_NORM_EPSILON = 1e-5  # 1e-6 everywhere else
CHANNELS = 3
NUM_STAGES = 3

ARCHITECTURES = {
    "conformer_tiny_patch16": {"patch_size": 16, "channel_ratio": 1},
    "conformer_small_patch16": {"patch_size": 16, "channel_ratio": 4},
    "conformer_small_patch32": {"patch_size": 32, "channel_ratio": 4},
    "conformer_base_patch16": {
        "patch_size": 16,
        "channel_ratio": 6,
        "hidden_dim": 576,
        "num_heads": 9,
    },
    # Of this project: for smoke runs and data sets of a few thousand small images.
    "conformer_mini_patch16": {
        "patch_size": 16,
        "channel_ratio": 0.5,
        "hidden_dim": 96,
        "num_heads": 3,
        "num_layers": 6,
    },
}
ALIASES = {
    f"conformer_{size}": f"conformer_{size}_patch16" for size in ("tiny", "small", "base", "mini")
}


@keras.saving.register_keras_serializable(package="vision")
class VisionConformer(keras.Model):
    """An image classifier of two branches.

    Layer 1 is a convolution block beside a transformer block on the same stem; the others are
    coupled blocks in three stages of equal depth, each halving the map of the one before. There is
    no position embedding, so any number of patches will do.

    Args:
        patch_size: side of the patch behind a token, in pixels; a multiple of 16.
        channel_ratio: width of the convolution branch, in 64 channels.
        hidden_dim: D.
        num_heads: H.
        num_layers: a multiple of three.
        feedforward_multiplier: inner width of the feed-forward parts, in D.
        num_classes: of both heads.
        dropout_rate: in the transformer blocks.
        attention_dropout_rate: on their attention weights.
        drop_path_rate: of the last transformer block, rising from 0 at the first.
        fusion_drop_path: whether the second convolution block of a coupled block drops its path
            at the same rate (mmpretrain).
        zero_init_last_batch_norm: whether convolution blocks start as their shortcuts (mmpretrain).
        approximate_gelu: whether GELU is its tanh form (MindSpore).
        use_pytorch_maxpool: whether the stem's pooling pads both sides; else the far side only,
            where the size is even (MindSpore).
        pad_to_patch: whether other sizes are zero-padded right and bottom behind the stem
            (mmpretrain) rather than refused.

    Source: Peng et al., Conformer: local features coupling global representations (2021).
    """

    def __init__(
        self,
        patch_size=16,
        channel_ratio=1,
        hidden_dim=384,
        num_heads=6,
        *,
        num_layers=12,
        feedforward_multiplier=4,
        num_classes=1000,
        dropout_rate=0.0,
        attention_dropout_rate=0.0,
        drop_path_rate=0.0,
        fusion_drop_path=False,
        zero_init_last_batch_norm=False,
        approximate_gelu=False,
        use_pytorch_maxpool=True,
        pad_to_patch=False,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.patch_size = patch_size
        self.channel_ratio = channel_ratio
        self.hidden_dim = hidden_dim
        self.num_heads = num_heads
        self.num_layers = num_layers
        self.feedforward_multiplier = feedforward_multiplier
        self.num_classes = num_classes
        self.dropout_rate = dropout_rate
        self.attention_dropout_rate = attention_dropout_rate
        self.drop_path_rate = drop_path_rate
        self.fusion_drop_path = fusion_drop_path
        self.zero_init_last_batch_norm = zero_init_last_batch_norm
        self.approximate_gelu = approximate_gelu
        self.use_pytorch_maxpool = use_pytorch_maxpool
        self.pad_to_patch = pad_to_patch

    def build(self, images_shape=None):
        """Creates every variable; shapes follow from the arguments alone."""
        policy, patch = self.dtype_policy, self.patch_size // 4
        self.stem = ConvolutionNorm(
            STEM_FILTERS, 7, 2, epsilon=STEM_EPSILON, dtype=policy, name="stem"
        )
        self.stem.build((None, None, None, CHANNELS))
        self.stem_padding = keras.layers.ZeroPadding2D(1, dtype=policy)
        padding = "valid" if self.use_pytorch_maxpool else "same"
        self.stem_pooling = keras.layers.MaxPooling2D(3, 2, padding, dtype=policy)
        self.patch_embedding = keras.layers.Conv2D(
            self.hidden_dim,
            patch,
            strides=patch,
            kernel_initializer=kernel_initializer(),
            bias_initializer=bias_initializer(STEM_FILTERS * patch**2),
            dtype=policy,
            name="patch_embedding",
        )
        self.patch_embedding.build((None, None, None, STEM_FILTERS))
        self.class_token = self.add_weight(
            name="class_token",
            shape=(1, 1, self.hidden_dim),
            initializer=keras.initializers.RandomNormal(stddev=0.02),
        )
        self._build_layers()
        self.final_norm = keras.layers.LayerNormalization(
            epsilon=FINAL_NORM_EPSILON, dtype="float32", name="final_norm"
        )
        self.final_norm.build((None, self.hidden_dim))
        self.global_pooling = keras.layers.GlobalAveragePooling2D(dtype="float32")
        self.convolution_head = projection(self.num_classes, "float32", "convolution_head")
        self.convolution_head.build((None, self.coupled_blocks[-1].filters))
        self.transformer_head = projection(self.num_classes, "float32", "transformer_head")
        self.transformer_head.build((None, self.hidden_dim))
        self.built = True

    def _build_layers(self):
        policy, tokens_shape = self.dtype_policy, (None, None, self.hidden_dim)
        rates = np.linspace(0.0, self.drop_path_rate, self.num_layers).tolist()
        transformer = {
            "num_heads": self.num_heads,
            "feedforward_dim": int(self.feedforward_multiplier * self.hidden_dim),
            "dropout_rate": self.dropout_rate,
            "attention_dropout_rate": self.attention_dropout_rate,
            "approximate_gelu": self.approximate_gelu,
        }
        filters = int(STEM_FILTERS * self.channel_ratio)
        self.first_convolution = ConvolutionBlock(
            filters,
            project_residual=True,
            zero_init_last_batch_norm=self.zero_init_last_batch_norm,
            dtype=policy,
            name="convolution_1",
        )
        self.first_convolution.build((None, None, None, STEM_FILTERS))
        self.first_transformer = TransformerBlock(
            **transformer, drop_path_rate=rates[0], dtype=policy, name="transformer_1"
        )
        self.first_transformer.build(tokens_shape)
        self.coupled_blocks = []
        for layer in range(1, self.num_layers):
            stage, place = divmod(layer, self.num_layers // NUM_STAGES)
            block = CoupledBlock(
                filters << stage,
                strides=2 if place == 0 else 1,
                pool_size=self.patch_size // 4 >> stage,
                transformer_arguments={**transformer, "drop_path_rate": rates[layer]},
                is_last=layer == self.num_layers - 1,
                fusion_drop_path_rate=rates[layer] if self.fusion_drop_path else 0.0,
                zero_init_last_batch_norm=self.zero_init_last_batch_norm,
                dtype=policy,
                name=f"coupled_{layer + 1}",
            )
            channels = filters << (stage - 1 if place == 0 else stage)
            block.build((None, None, None, channels), tokens_shape)
            self.coupled_blocks.append(block)

    def __call__(self, images, *args, **kwargs):
        """Calls the model; in front of Keras, which would make several lines of the refusal."""
        self._check(images)
        return super().__call__(images, *args, **kwargs)

    def call(self, images, training=False):
        """Classifies.

        Args:
            images: `[B, H, W, 3]`, normalized; H and W multiples of the patch, or see
                `pad_to_patch`.
            training: whether dropout, drop path and batch moments are active.

        Returns:
            float32 logits `[B, num_classes]` of the convolution branch and of the transformer
            branch; the prediction is their sum.
        """
        return self.classify(*self.encode(images, training=training))

    def encode(self, images, training=False):
        """Computes what the heads read.

        Args:
            images: see `call`.
            training: see `call`.

        Returns:
            `[B, H/32, W/32, C]`, the last map, and `[B, 1 + P, D]`, class token and patches.
        """
        self._check(images)
        x = ops.relu(self.stem(images, training=training))
        # Nothing is below zero here, so zeros pad like the negative infinity of a maximum.
        x = self.stem_pooling(self.stem_padding(x) if self.use_pytorch_maxpool else x)
        x = self._pad(x) if self.pad_to_patch else x
        patches = flatten(self.patch_embedding(x))
        class_token = ops.cast(self.class_token, patches.dtype)
        class_token = ops.broadcast_to(class_token, (ops.shape(x)[0], 1, self.hidden_dim))
        tokens = ops.concatenate([class_token, patches], axis=1)
        tokens = self.first_transformer(tokens, training=training)
        x, _ = self.first_convolution(x, training=training)
        for block in self.coupled_blocks:
            x, tokens = block(x, tokens, training=training)
        return x, tokens

    def classify(self, feature_map, tokens):
        """Maps `[B, H, W, C]` and `[B, 1 + P, D]` to two float32 logits `[B, num_classes]`."""
        convolution_logits = self.convolution_head(self.global_pooling(feature_map))
        return convolution_logits, self.transformer_head(self.final_norm(tokens[:, 0]))

    def _check(self, images):
        batch_and_sizes, channels = images.shape[:-1], images.shape[-1]
        sizes = [x for x in batch_and_sizes[1:] if x is not None]
        fits = self.pad_to_patch or not any(x % self.patch_size for x in sizes)
        if len(batch_and_sizes) != 3 or channels != CHANNELS or not fits or 0 in sizes:
            raise UserError.expected(
                f"images of shape [B, H, W, {CHANNELS}], H and W multiples of {self.patch_size}",
                list(images.shape),
                "Resize the images, or build the model with pad_to_patch",
            )

    def _pad(self, x):
        """Pads a map to whole patches with zeros, right and bottom."""
        multiple = self.patch_size // 4
        bottom, right = (-size % multiple for size in ops.shape(x)[1:3])
        if isinstance(bottom, int) and isinstance(right, int) and bottom == right == 0:
            return x
        return ops.pad(x, [[0, 0], [0, bottom], [0, right], [0, 0]])

    def get_config(self):
        """Returns the constructor's arguments."""
        names = (
            "patch_size channel_ratio hidden_dim num_heads num_layers feedforward_multiplier "
            "num_classes dropout_rate attention_dropout_rate drop_path_rate fusion_drop_path "
            "zero_init_last_batch_norm approximate_gelu use_pytorch_maxpool pad_to_patch"
        ).split()
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}


def build_model(
    architecture: str | Mapping = "conformer_tiny_patch16",
    num_classes: int = 1000,
    precision: str = "float32",
    **options,
) -> VisionConformer:
    """Builds a model with all its variables.

    Args:
        architecture: a name of `ARCHITECTURES` or `ALIASES`, or sizes of a `VisionConformer`.
        num_classes: of both heads.
        precision: Keras dtype policy: `float32`, `mixed_float16` or `mixed_bfloat16`.
        options: further arguments of `VisionConformer`.

    Raises:
        UserError: no such architecture, or sizes that make none.
    """
    sizes = architecture
    if isinstance(architecture, str):
        sizes = ARCHITECTURES.get(ALIASES.get(architecture, architecture))
        if sizes is None:
            names = ", ".join((*ARCHITECTURES, *ALIASES))
            raise UserError.expected(f"one of {names}", architecture, "Correct the architecture")
    model = VisionConformer(
        **{**sizes, **options},
        num_classes=num_classes,
        dtype=keras.DTypePolicy(precision),
        name="vision_conformer",
    )
    unfit = {
        "num_layers": model.num_layers % NUM_STAGES,
        "patch_size": model.patch_size % 16,
        "num_heads": model.hidden_dim % model.num_heads,
    }
    if any(unfit.values()):
        raise UserError.expected(
            "layers in three equal stages, a patch of 16 n pixels, a width of equal heads",
            ", ".join(f"{name}={getattr(model, name)}" for name, rest in unfit.items() if rest),
            "Correct the sizes",
        )
    model.build()
    return model
