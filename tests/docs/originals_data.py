"""Makes small data in the current folder, under the names of docs/from_the_originals.md."""

import os
import shutil
import sys
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path

import keras
import numpy as np
import soundfile
import tensorflow as tf
import yaml
from PIL import Image

import conformer
import wav2vec2
from conformer.tokenizer import CharacterTokenizer, save_tokenizer
from tests.support import pickles
from tests.support.imagenet import write_archives
from tests.support.speech import wav_bytes, write_librispeech
from tools.benchmark.blocks import PROJECT
from tools.config.loader import to_yaml
from tools.training.checkpoint import CheckpointStore
from vision.checkpoint import build
from vision.config import load_config
from vision.export import main as export
from vision.weights import pytorch_state_dict
from wav2vec2.config import PreprocessingConfig
from wav2vec2.export import export_saved_model
from wav2vec2.vocabulary import Vocabulary

NUM_CLASSES = 1000
# The sizes of tests/golden/keras2_weights.h5, in the words of this project and of TensorFlowASR.
SMALL = {
    "features": {"num_mel_bins": 8},
    "model": {
        "num_layers": 1,
        "hidden_dim": 8,
        "num_heads": 2,
        "kernel_size": 4,
        "subsampling_filters": 3,
        "prediction_dim": 6,
        "joint_dim": 5,
    },
    "data": {"train_splits": ["train-clean"], "eval_splits": ["dev-clean"], "num_buckets": 1},
    "tokenizer": {"kind": "characters", "vocabulary_file": "v.json"},
    "training": {"batch_size": 2, "num_epochs": 1},
}
THEIRS = {
    "speech_config": {"sample_rate": 16000, "num_feature_bins": 8},
    "decoder_config": {"vocabulary": "v.subwords", "blank_at_zero": True},
    "model_config": {
        "encoder_dmodel": 8,
        "encoder_num_blocks": 1,
        "encoder_num_heads": 2,
        "encoder_head_size": 4,
        "encoder_kernel_size": 4,
        "encoder_subsampling": {"type": "conv2d", "filters": 8, "kernel_size": 3, "strides": 2},
        "prediction_embed_dim": 6,
        "prediction_rnn_units": 6,
        "joint_dim": 5,
    },
    "learning_config": {
        "train_dataset_config": {"data_paths": ["transcripts.tsv"]},
        "eval_dataset_config": {"data_paths": ["transcripts.tsv"]},
        "running_config": {"batch_size": 2, "num_epochs": 1},
    },
}
WAV2VEC2 = {
    "feature_filters": (16,) * 7,
    "feature_norm": "group",
    "hidden_dim": 32,
    "num_layers": 2,
    "num_heads": 4,
    "feedforward_dim": 64,
    "position_kernel_size": 8,
    "position_groups": 4,
    "vocabulary_size": 12,
}


def write_pth(path: str | Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes arrays as `torch.save` writes a dictionary of tensors."""
    content, storages = OrderedDict(), {}
    for key, (name, array) in enumerate(arrays.items()):
        array = np.ascontiguousarray(array, np.float32)
        strides = tuple(stride // array.itemsize for stride in array.strides)
        content[name] = pickles.tensor("Float", str(key), array.size, array.shape, strides)
        storages[str(key)] = array
    pickles.save(path, content, storages)


def make_speech(rng: np.random.Generator) -> None:
    """Writes corpora, a table, a TFRecord shard, vocabularies and weights of tf-keras."""
    for split in ("train-clean-100", "dev-clean", "test-clean"):
        texts = ("AB", "BA CAB", "A", "CC AB") * 3
        sounds = [(text, 0.1 * rng.normal(size=8000 * len(text) + 8000)) for text in texts]
        write_librispeech(Path("LibriSpeech", split), sounds)
    Path("LibriSpeech/train-clean").symlink_to("train-clean-100")
    Path("DATA").mkdir()
    for link in ("DEV", "test-clean", "DATA/train"):
        Path(link).symlink_to(Path("LibriSpeech/dev-clean").resolve())
    for link in ("MODEL", "A"):
        Path(link).symlink_to(Path("conformer/pretrained/digits").resolve())
    shutil.copy(PROJECT / "tests" / "golden" / "keras2_weights.h5", "50.h5")
    save_tokenizer(CharacterTokenizer("ABCDE"), Path("v.json"))
    subwords = ["### SubwordTextEncoder", "### Metadata: {}", "'A'", "'B'", "'C'", "'D_'", ""]
    Path("v.subwords").write_text("\n".join(subwords))
    lines = ["PATH\tDURATION\tTRANSCRIPT"]
    for path in sorted(Path("DEV").resolve().rglob("*.flac")):
        lines.append(f"{path}\t{soundfile.info(path).duration:.2f}\tab")
    Path("transcripts.tsv").write_text("\n".join([*lines, ""]))
    Path("small.yml").write_text(yaml.safe_dump(SMALL))
    # Names in their config are below --data_dir, unless they are absolute.
    text = yaml.safe_dump(THEIRS).replace("transcripts.tsv", f"{Path.cwd()}/transcripts.tsv")
    Path("config.yml").write_text(text.replace("v.subwords", f"{Path.cwd()}/v.subwords"))
    Path("m.json").write_text("{}")
    Path("SHARDS").mkdir()
    sound = wav_bytes(0.1 * rng.normal(size=8000))
    values = {"path": b"a.wav", "audio": sound, "transcript": b"ab"}
    lists = {name: tf.train.BytesList(value=[value]) for name, value in values.items()}
    feature = {name: tf.train.Feature(bytes_list=value) for name, value in lists.items()}
    record = tf.train.Example(features=tf.train.Features(feature=feature))
    with tf.io.TFRecordWriter("SHARDS/train_1.tfrecord", "ZLIB") as writer:
        writer.write(record.SerializeToString())


def make_run() -> None:
    """Writes a run directory of speech with one checkpoint."""
    config, tokenizer = conformer.load_config("small.yml", {}), CharacterTokenizer("ABCDE")
    model = conformer.build_model(config, tokenizer.vocabulary_size)
    groups = {"model": {variable.path: variable for variable in model.weights}}
    assets = {"config.yml": to_yaml(config), "vocabulary.json": tokenizer.to_json()}
    store = CheckpointStore(Path("RUN/checkpoints"))
    store.save({"step": 1, "metric": None}, groups, assets)


def make_images(rng: np.random.Generator) -> None:
    """Writes ImageFolders, flat folders, archives, and weights of the tiny and a smaller model."""
    Path("source").mkdir()
    for number in range(4):
        pixels = rng.integers(0, 255, (96, 80, 3), np.uint8)
        Image.fromarray(pixels).save(f"source/{number}.JPEG")
    names = [f"n{number:08d}" for number in range(NUM_CLASSES)]
    for folder, classes in (("imagenet", names), ("cars", names[:196]), ("photos", names[:6])):
        for split, number in ((x, y) for x in ("train", "val") for y in range(len(classes))):
            place = Path(folder, split, classes[number])
            place.mkdir(parents=True)
            os.link(f"source/{number % 4}.JPEG", place / f"{number}.JPEG")
    Path("ImageNet").symlink_to("imagenet")
    Path("val.txt").write_text("".join(f"{name}\n" for name in names))
    lines = []
    for folder in ("val", "images"):
        Path(folder).mkdir()
        for number in range(2):
            name = f"ILSVRC2012_val_{number + 1:08d}.JPEG"
            shutil.copy(f"source/{number}.JPEG", Path(folder, name))
            lines.append(f"{name} {number}\n")
    Path("val_label.txt").write_text("".join(lines[:2]))
    write_archives(Path("ARCHIVES"))
    small = {
        "model": {"arch": "conformer_mini_patch16"},
        "preprocessing": {"image_size": 64},
        "training": {"batch_size": 2, "num_epochs": 1},
    }
    Path("small_images.yml").write_text(yaml.safe_dump(small))
    tiny = {"model": {"arch": "conformer_tiny_patch16"}}
    Path("tiny.yml").write_text(yaml.safe_dump(tiny))
    Path("conformer_tiny.ckpt").write_bytes(b"\n\x10\n\x04conv")  # as MindSpore begins one
    for name, arch in (("tiny", "conformer_tiny_patch16"), ("small", "conformer_mini_patch16")):
        keras.utils.set_random_seed(0)
        model = build(load_config(None, {"model.arch": arch}).model)
        write_pth(f"{name}.pth", pytorch_state_dict(model))
    for link in ("base", "conformer-base-p16_3rdparty_8xb128_in1k_20211206-bfdf8637"):
        Path(f"{link}.pth").symlink_to("tiny.pth")


def make_onnx() -> None:
    """Writes an ONNX file of the smaller model under the names that the page uses."""
    small = ["--arch=conformer_mini_patch16", "--pretrained=small.pth"]
    export([*small, "--output_file=conformer_tiny.onnx"])
    export([*small, "--output_file=a.onnx", "--layout=NCHW"])


def make_wav2vec2() -> None:
    """Writes a Hugging Face folder of a small model."""
    model = wav2vec2.build_model(WAV2VEC2, "float32")
    model.vocabulary = Vocabulary((*"ABCDEFG", "|", "<pad>", "<s>", "</s>", "<unk>"))
    model.preprocessing = PreprocessingConfig(trained_with_mask=False)
    folder = Path("wav2vec2_pytorch_model")
    wav2vec2.save_pretrained(model, folder)
    (folder / "model.safetensors").unlink()
    write_pth(folder / "pytorch_model.bin", wav2vec2.pytorch_state_dict(model))
    export_saved_model(model, Path("exports/base"))
    Path("traced.pth").write_bytes(b"")
    Path("in").mkdir()  # a batch of the original, without lengths.json
    np.random.default_rng(1).normal(size=(8, 100000)).astype("f4").tofile("in/batch_0.bin")


if __name__ == "__main__":
    generator = np.random.default_rng(0)
    make_speech(generator)
    make_run()
    make_images(generator)
    make_wav2vec2()
    if sys.argv[1:] == ["--onnx"]:  # takes half a minute
        make_onnx()
