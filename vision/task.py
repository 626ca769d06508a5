"""Training task of the vision Conformer: images, model, loss of both heads and evaluation."""

import functools
import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from tools.amounts import counted
from tools.config.loader import to_yaml
from tools.errors import UserError
from tools.training.checkpoint import Checkpoint
from tools.training.distributed import Processes, from_first_rank
from tools.training.fused_batch_norm import fused_batch_norm
from tools.training.resuming import data_digest
from tools.training.task import LossSums, Position, Shard, TrainData
from vision.checkpoint import build, load_pretrained
from vision.classes import Classes, read_labelled, renamed
from vision.config import VisionConfig
from vision.convolution import BatchNormalization
from vision.input_pipeline import Batches, ImageFolder, read_image_folder
from vision.model import CHANNELS
from vision.recipe import CLASSES_FILE, CONFIG_FILE, own_classes
from vision.scoring import Scores
from vision.training_data import training_data

logger = logging.getLogger(__name__)

_NUM_LISTED = 20  # largest number of files in a message
HEADS = ("convolution_logits", "transformer_logits")  # reported as acc_head1 and acc_head2


def _check_resumed(checkpoint: Checkpoint, folders: Sequence[str]) -> None:
    """Raises UserError if the class folders are not those that the run was started with."""
    other = renamed(own_classes(checkpoint.path), folders)
    if other:
        raise UserError.expected(
            f"the class folders that {checkpoint.path} was trained on",
            other,
            "Restore their names, or start a new run from its weights with --pretrained",
        )


def _some(files: Sequence[tuple[str, str]]) -> str:
    """Returns the number of files, and the first few with their reasons."""
    first = ", ".join(f"{path} ({reason})" for path, reason in files[:_NUM_LISTED])
    return f"{len(files)}: {first}" + (", and more" if len(files) > _NUM_LISTED else "")


class VisionTask:
    """Training task of the vision Conformer; implements `tools.training.task.Task`.

    Args:
        config: configuration of the run.
        processes: the processes of the run. Rank 0 lists images and reads weights, the other ranks
            wait for it.
        pretrained: weights to start with; see `checkpoint.load_pretrained`. Empty: initial weights.
        resumed: checkpoint from which the run continues, or None. Its classes are used.
        needs_evaluation: whether to list the evaluation set.

    Raises:
        UserError: the images, the classes or the checkpoint do not fit the configuration.
    """

    def __init__(
        self,
        config: VisionConfig,
        processes: Processes,
        pretrained: str = "",
        resumed: Checkpoint | None = None,
        *,
        needs_evaluation: bool = True,
    ):
        self.config, self.processes = config, processes
        self.report: list[str] = []
        data = config.data
        self.folder = self._images(data.train_dir, data.train_num_samples, ())
        root = Path(data.data_url) / data.train_dir
        paths = (Path(path).relative_to(root) for path in self.folder.paths)
        self.data_digest = data_digest(zip(map(str, paths), self.folder.labels, strict=True))
        names = [self.folder.classes[number] for number in sorted(self.folder.classes)]
        if len(names) != config.model.num_classes:
            raise UserError.expected(
                f"{config.model.num_classes} class folders in {data.train_dir}",
                f"{len(names)}: {', '.join(names[:5])}{' ...' if len(names) > 5 else ''}",
                f"Set num_classes to {len(names)}, or select another folder",
            )
        # Names that a line of the file of classes cannot contain.
        odd = [x for x in names if " ".join(x.split()).encode("utf-8", "ignore").decode() != x]
        if odd:
            raise UserError.expected(
                f"class folders in {data.train_dir} with names in UTF-8 with single spaces only",
                ", ".join(map(ascii, odd[:5])),
                "Rename the folders",
            )
        if resumed is not None:
            from_first_rank(processes, lambda: _check_resumed(resumed, names))
        keras.utils.set_random_seed(config.training.seed)
        self.model = build(config.model, config.training.precision)
        self._check_image_size()
        self.report.append(f"Number of parameters: {self.model.count_params()}")
        if pretrained:
            self.report += from_first_rank(
                processes,
                lambda: load_pretrained(self.model, pretrained, names, config.run.use_ema),
            )
        synchronized = config.training.synchronize_batch_norm and processes.size > 1
        for layer in self.model._flatten_layers():
            if isinstance(layer, BatchNormalization):
                layer.normalize_batch = fused_batch_norm
                if synchronized:
                    layer.sum_over_ranks = lambda sums: processes.sum([sums])[0]
        lines = [f"{number} {name}\n" for number, name in enumerate(names)]
        self.assets = {CONFIG_FILE: to_yaml(config), CLASSES_FILE: "".join(lines)}
        self.evaluators = {}
        if needs_evaluation:
            held_out = self._images(data.val_dir, data.val_num_samples, names)
            self.evaluators["eval"] = functools.partial(self._evaluate, held_out)

    def train_data(self, shard: Shard, position: Position, num_epochs: int) -> TrainData:
        """Returns the training batches of one process; see `Task`."""
        config = self.config
        return training_data(
            self.folder,
            config.model.num_classes,
            config.preprocessing,
            config.augmentation,
            seed=config.training.seed,
            shard=shard,
            position=position,
            num_epochs=num_epochs,
            num_workers=config.data.num_parallel_workers,
        )

    @property
    def blocks(self) -> list[keras.Layer]:
        """The coupled blocks, for `training.rematerialize`."""
        return self.model.coupled_blocks

    def layer_depth(self, path: str) -> int:
        """Returns the depth of a variable, for learning rates that depend on depth.

        Stem and embedding have depth 0, then the blocks follow, then the heads.
        """
        numbered = re.search(r"/(?:convolution|transformer|coupled)_(\d+)/", path)
        if numbered:
            return int(numbered[1])
        first = re.search(r"/(stem|patch_embedding|class_token)", path)
        return 0 if first else 1 + self.model.num_layers

    def loss(self, batch: Mapping[str, tf.Tensor], training: bool) -> LossSums:
        """Sums the cross-entropies of both heads. Unreadable images have weight 0."""
        heads = [tf.cast(x, tf.float32) for x in self.model(batch["images"], training=training)]
        losses = sum(tf.nn.softmax_cross_entropy_with_logits(batch["targets"], x) for x in heads)
        losses = losses * batch["weights"] * self._loss_factor
        answers = {"acc_head1": heads[0], "acc_head2": heads[1], "acc_heads": heads[0] + heads[1]}
        hits = {
            name: tf.argmax(logits, axis=-1, output_type=tf.int32) == batch["labels"]
            for name, logits in answers.items()
        }
        metrics = {
            name: tf.reduce_sum(batch["weights"] * tf.cast(hit, tf.float32))
            for name, hit in hits.items()
        }
        return LossSums(tf.reduce_sum(losses), tf.reduce_sum(batch["weights"]), losses, metrics)

    @property
    def _loss_factor(self) -> float:
        return 0.5 if self.config.run.heads_loss == "mean" else 1.0

    def _check_image_size(self):
        side = self.config.preprocessing.image_size
        if side % self.model.patch_size:
            raise UserError.expected(
                f"an image_size that is a multiple of {self.model.patch_size}",
                side,
                "Correct image_size",
            )

    def _images(self, directory: str, limit: int, names: Sequence[str]) -> ImageFolder:
        """Lists images on rank 0 and sends the list, or the error, to all processes."""
        root = Path(self.config.data.data_url) / directory

        def listed():
            known = Classes(list(names))  # without names: the training set
            return read_labelled(root, known, len(names)) if names else read_image_folder(root)

        folder = from_first_rank(self.processes, listed)
        folder = folder.sample(limit, self.config.training.seed)
        self.report.append(
            f"{root}: {counted(len(folder.paths), 'image')} of "
            f"{counted(len(folder.classes) or len(set(folder.labels)), 'class')}"
            + "".join(f"; {place}: {remark}" for place, remark in folder.remarks[:5])
        )
        if folder.left_out:
            self.report.append(f"{root}: left out {_some(folder.left_out)}")
        return folder

    def _evaluate(self, folder: ImageFolder) -> dict[str, float]:
        """Evaluates the images of this process and sums the results of all processes."""
        rank, size = self.processes.rank, self.processes.size
        paths, labels = folder.paths[rank::size], np.array(folder.labels[rank::size])
        batch_size = self.config.data.eval_batch_size or self.config.training.batch_size
        workers = self.config.data.num_parallel_workers
        batches = Batches(paths, self.config.preprocessing, batch_size, workers)
        scores = Scores(self.config.model.num_classes)
        hits = np.zeros(len(HEADS), np.int64)
        for indices, images in batches:
            heads = [x.numpy() for x in self._classify(images)]
            outputs = dict(zip(HEADS, heads, strict=True)) | {"logits": heads[0] + heads[1]}
            scores.add(outputs, labels[indices])
            hits += [np.sum(x.argmax(axis=-1) == labels[indices]) for x in heads]
        own = [scores.num_images, scores.loss_sum, *hits, *scores.hits.values()]
        skipped = [(paths[i], reason) for i, reason in sorted(batches.reasons.items())]
        skipped = [x for share in self.processes.gather_objects(skipped) for x in share]
        if skipped and self.processes.rank == 0:
            logger.warning("images left out of the evaluation: %s", _some(skipped))
        shares = self.processes.gather_objects([float(x) for x in own])
        count, loss, *rest = np.sum(shares, axis=0)
        if not count:
            raise UserError.expected(
                "evaluation images that can be read",
                next(iter(batches.reasons.values()), "none"),
                "Check the files, or add --skip_eval",
            )
        accuracies = zip(
            ("acc_head1", "acc_head2", "acc_heads", "acc_heads_top5"), rest, strict=True
        )
        return {
            **{name: float(value / count) for name, value in accuracies},
            "loss": float(loss / count * self._loss_factor),
            "num_images": int(count),
            "num_skipped": len(skipped),
        }

    @functools.cached_property
    def _classify(self):
        side = self.config.preprocessing.image_size
        spec = tf.TensorSpec([None, side, side, CHANNELS], tf.float32)

        @tf.function(input_signature=[spec], autograph=False)
        def classify(images):
            return self.model(images, training=False)

        return classify
