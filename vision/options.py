"""Options of the programs that classify images, as frozen dataclasses."""

from dataclasses import dataclass, field

from tools.errors import UserError
from tools.inference.options import DataOptions, RunnerOptions
from vision.config import ConfigOptions


@dataclass(frozen=True, slots=True)
class ImageDataOptions(DataOptions):
    """The images to classify, and how they are read.

    Attributes:
        num_parallel_workers: number of images read in parallel; 0: one for each core.
        prefetch: number of images read in advance; 0: four batches.

    Raises:
        UserError: a number is out of range.
    """

    num_parallel_workers: int = 0
    prefetch: int = 0

    def __post_init__(self):
        if min(self.batch_size, self.warmup_count + 1) < 1:
            raise UserError.expected(
                "--batch_size >= 1 and --warmup_count >= 0",
                f"{self.batch_size} and {self.warmup_count}",
                "Correct the values",
            )
        if min(self.num_parallel_workers, self.prefetch) < 0:
            raise UserError.expected(
                "--num_parallel_workers and --prefetch >= 0",
                f"{self.num_parallel_workers} and {self.prefetch}",
                "Correct the values",
            )


@dataclass(frozen=True, slots=True)
class ClassifierOptions:
    """The classifier to open, and how to run it. Exactly one of the first three must be set.

    Attributes:
        checkpoint: weights to run in TensorFlow. None, if no other model is set: the weights that
            the file of `config` names.
        native_savedmodel_dir: directory of an exported or converted model.
        onnx_path: ONNX file.
        config: configuration of a checkpoint, or of an ONNX file without a description. Its
            `words` for the preprocessing take precedence over the description of a model.
        imagenet_label_file: file of class names; None: the names in the model.
        precision: Keras dtype policy of a checkpoint.
        runner: runtime options.
    """

    checkpoint: str | None = None
    native_savedmodel_dir: str | None = None
    onnx_path: str | None = None
    config: ConfigOptions = field(default_factory=ConfigOptions)
    imagenet_label_file: str | None = None
    precision: str = "float32"
    runner: RunnerOptions = field(default_factory=RunnerOptions)


@dataclass(frozen=True, slots=True)
class InferenceOptions:
    """Options of `vision.infer`.

    Attributes:
        classifier: the model.
        data: the data. Its `paths` contain one image or one folder of images.
        output: JSON file to write the predictions to.
        top_k: number of classes to print for each image.
    """

    classifier: ClassifierOptions
    data: ImageDataOptions
    output: str = "predictions.json"
    top_k: int = 1


@dataclass(frozen=True, slots=True)
class EvaluationOptions:
    """Options of `vision.eval`.

    Attributes:
        classifier: the model.
        data: the data. Its `paths` contain one ImageFolder, or one flat folder of images.
        num_samples: number of images to use, chosen at random; -1: all.
        seed: seed of the random choice.
        analysis_dir: folder to write the confusion matrix to; None: it is not written.
        anno_file: labels of a flat folder; None: those beside it.
    """

    classifier: ClassifierOptions
    data: ImageDataOptions
    num_samples: int = -1
    seed: int = 0
    analysis_dir: str | None = None
    anno_file: str | None = None
