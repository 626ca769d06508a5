"""What a program or a caller asks of a classifier, as frozen options."""

from dataclasses import dataclass, field

from tools.errors import UserError
from tools.inference.options import DataOptions, RunnerOptions
from vision.config import ConfigOptions


@dataclass(frozen=True, slots=True)
class ImageDataOptions(DataOptions):
    """Which images a program runs.

    Attributes:
        num_parallel_workers: images decoded at once; 0: one for each core.
        prefetch: images read ahead; 0: four batches.

    Raises:
        UserError: a number is out of its range.
    """

    num_parallel_workers: int = 0
    prefetch: int = 0

    def __post_init__(self):
        if min(self.batch_size, self.warmup_count + 1) < 1:
            raise UserError.expected(
                "--batch_size >= 1 and --warmup_count >= 0",
                f"{self.batch_size} and {self.warmup_count}",
                "Correct the flag",
            )
        if min(self.num_parallel_workers, self.prefetch) < 0:
            raise UserError.expected(
                "--num_parallel_workers and --prefetch >= 0",
                f"{self.num_parallel_workers} and {self.prefetch}",
                "Correct the flag",
            )


@dataclass(frozen=True, slots=True)
class ClassifierOptions:
    """Which classifier is opened, by exactly one of the first three, and how.

    Attributes:
        checkpoint: weights to run in TensorFlow; None: those that the file of `config` names, if no
            other model is named.
        native_savedmodel_dir: exported or converted model.
        onnx_path: ONNX file.
        config: of a checkpoint, or of an ONNX file that does not describe itself. Its `words` for
            the preprocessing win over what a model says of itself.
        imagenet_label_file: names of the classes; None: those that the model knows.
        precision: Keras dtype policy of a checkpoint.
        runner: how the model is run.
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
    """What `vision.infer` does.

    Attributes:
        classifier: which model.
        data: the image, or the folder of images, is the only one of its `paths`.
        output: file for the predictions.
        top_k: classes to tell for each image.
    """

    classifier: ClassifierOptions
    data: ImageDataOptions
    output: str = "predictions.json"
    top_k: int = 1


@dataclass(frozen=True, slots=True)
class EvaluationOptions:
    """What `vision.eval` does.

    Attributes:
        classifier: which model.
        data: the ImageFolder is the only one of its `paths`.
        num_samples: images to score, chosen at random; -1: all.
        seed: by which they are chosen.
        analysis_dir: folder for the confusion matrix; None: none is written.
    """

    classifier: ClassifierOptions
    data: ImageDataOptions
    num_samples: int = -1
    seed: int = 0
    analysis_dir: str | None = None
