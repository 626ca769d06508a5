"""Vision Conformer: coupled convolution and transformer branches with one classifier each."""

from collections.abc import Mapping

import keras
import numpy as np
from keras import ops

from tools.errors import UserError
from tools.layers.layer_norm import LayerNormalization
from vision.attention import TransformerBlock, projection
from vision.blocks import CoupledBlock, bias_initializer, flatten
from vision.convolution import ConvolutionBlock, ConvolutionNorm, kernel_initializer

STEM_FILTERS = 64
STEM_EPSILON = FINAL_NORM_EPSILON = 1e-5  # all other normalization layers have 1e-6
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
    # A size of this project, for smoke runs and for data sets of a few thousand small images.
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
    """An image classifier with a convolution branch and a transformer branch.

    Layer 1 is a convolution block and a transformer block, both on the output of the stem. The
    other layers are coupled blocks in three stages of equal depth. Each stage halves the height
    and width of the feature map. There is no position embedding, so the model accepts images of
    any size that is a multiple of the patch size.

    Args:
        patch_size: side of the patch of one token in pixels, a multiple of 16.
        channel_ratio: width of the convolution branch in units of 64 channels.
        hidden_dim: width D of a token, a multiple of H.
        num_heads: number of heads H.
        num_layers: number of layers, a multiple of 3.
        feedforward_multiplier: inner width of the feed-forward networks, divided by D.
        num_classes: number of classes of both heads.
        dropout_rate: dropout rate in the transformer blocks.
        attention_dropout_rate: dropout rate of the attention weights.
        drop_path_rate: rate of stochastic depth in the last transformer block. The rates rise
            linearly from 0 in the first block.
        fusion_drop_path: whether the second convolution block of a coupled block has stochastic
            depth with the same rate (mmpretrain).
        zero_init_last_batch_norm: whether the residual branches of the convolution blocks are 0 at
            initialization (mmpretrain).
        approximate_gelu: whether to use the tanh approximation of GELU (MindSpore).
        use_pytorch_maxpool: True: the max pooling of the stem pads on all sides (PyTorch). False:
            it pads maps of even size at the right and bottom only (MindSpore).
        pad_to_patch: True: pad feature maps of other image sizes with zeros at the right and
            bottom (mmpretrain). False: raise an error for other image sizes.

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
        """Creates all variables. Their shapes do not depend on the images."""
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
        self.final_norm = LayerNormalization(
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
        """Checks the shape of the images first, because Keras adds lines to errors in `call`."""
        self._check(images)
        return super().__call__(images, *args, **kwargs)

    def call(self, images, training=False):
        """Classifies images.

        Args:
            images: `[B, H, W, 3]`, normalized. H and W are multiples of the patch size, unless
                `pad_to_patch` is set.
            training: whether dropout and stochastic depth are active and batch norm uses the
                moments of the batch.

        Returns:
            `[B, num_classes]` float32 logits of the convolution branch, and of the transformer
            branch. The logits of the model are their sum.

        Raises:
            UserError: the images have another shape.
        """
        return self.classify(*self.encode(images, training=training))

    def encode(self, images, training=False):
        """Computes the inputs of the heads.

        Args:
            images: see `call`.
            training: see `call`.

        Returns:
            `[B, H/32, W/32, C]` last feature map, and `[B, 1 + P, D]` class token and tokens of
            the patches.
        """
        self._check(images)
        x = ops.relu(self.stem(images, training=training))
        # The stem ends with ReLU. Padding max pooling with 0 therefore equals padding with -inf.
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
        """Computes the logits of both heads.

        Args:
            feature_map: `[B, H, W, C]`, the first result of `encode`.
            tokens: `[B, 1 + P, D]`, the second result of `encode`.

        Returns:
            `[B, num_classes]` float32 logits of the convolution and of the transformer branch.
        """
        convolution_logits = self.convolution_head(self.global_pooling(feature_map))
        return convolution_logits, self.transformer_head(self.final_norm(tokens[:, 0]))

    def _check(self, images):
        batch_and_sizes, channels = images.shape[:-1], images.shape[-1]
        sizes = [x for x in batch_and_sizes[1:] if x is not None]
        fits = self.pad_to_patch or not any(x % self.patch_size for x in sizes)
        if len(batch_and_sizes) != 3 or channels != CHANNELS or not fits or 0 in sizes:
            raise UserError.expected(
                f"images [B, H, W, {CHANNELS}] where H and W are multiples of {self.patch_size}",
                list(images.shape),
                "Resize the images, or build the model with pad_to_patch",
            )

    def _pad(self, x):
        """Pads a feature map with zeros at the right and bottom to whole patches."""
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
    """Returns a model with all its variables, initialized at random.

    Args:
        architecture: a name in `ARCHITECTURES` or `ALIASES`, or the sizes of a `VisionConformer`
            by argument name.
        num_classes: number of classes of both heads.
        precision: Keras dtype policy: `float32`, `mixed_float16` or `mixed_bfloat16`.
        **options: further arguments of `VisionConformer`.

    Raises:
        UserError: the name is unknown, or the sizes do not fit together.
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
            "num_layers a multiple of 3, patch_size of 16, hidden_dim of num_heads",
            ", ".join(f"{name}={getattr(model, name)}" for name, rest in unfit.items() if rest),
            "Correct the sizes",
        )
    model.build()
    return model
