"""The flags that every inference program shares, by their original names."""

from tools.config.command_line import CommandLine


def add_inference_flags(flags: CommandLine) -> None:
    """Adds the shared flags to a program's command line."""
    flags.string(
        "native_savedmodel_dir", None, "SavedModel to run.", default_text="the bundled one"
    )
    flags.string("data_dir", None, "Corpus to recognize and score: a whole set or one split.")
    flags.integer("batch_size", 1, "Inputs run together.")
    flags.boolean("run_eagerly", True, "TensorFlow's own runtime on the SavedModel.")
    flags.integer("warmup_count", 1, "Batches run before the clock starts.")
    flags.string("result_path", None, "JSON report to write, with a TSV of the texts beside it.")
