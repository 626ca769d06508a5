"""Archives of a few bytes in the layout of the official ones of ImageNet."""

import io
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from scipy.io import savemat

WNIDS = ("n02000002", "n01000001", "n03000003")  # in the order of the devkit's numbers
TRUTH = (3, 1, 2, 2, 3, 1)  # class numbers of the validation images: two images of each class


def write_archives(
    folder: Path,
    wnids: Sequence[str] = WNIDS,
    num_images: int = len(TRUTH),
    truth: Sequence[int] = TRUTH,
) -> Path:
    """Writes the archives of training images, of validation images and of the devkit.

    Args:
        folder: folder to write into; made if needed.
        wnids: classes of the training images, two images of each.
        num_images: number of validation images.
        truth: class number of each validation image in the devkit, from 1.

    Returns:
        The folder.
    """
    folder.mkdir(exist_ok=True)
    inner = {f"{w}.tar": _pack({f"{w}_{i}.JPEG": w.encode() for i in range(2)}) for w in wnids}
    images = {f"ILSVRC2012_val_{i:08d}.JPEG": b"%d" % i for i in range(1, num_images + 1)}
    (folder / "ILSVRC2012_img_train.tar").write_bytes(_pack(inner))
    (folder / "ILSVRC2012_img_val.tar").write_bytes(_pack(images))
    (folder / "ILSVRC2012_devkit_t12.tar.gz").write_bytes(_devkit(truth))
    return folder


def _pack(members: Mapping[str, bytes], mode: str = "w") -> bytes:
    """Returns an archive of files by name, as bytes."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode=mode) as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return stream.getvalue()


def _devkit(truth: Sequence[int]) -> bytes:
    meta = io.BytesIO()
    rows = [(number, wnid) for number, wnid in enumerate(WNIDS, start=1)]
    synsets = np.array(rows, dtype=[("ILSVRC2012_ID", "O"), ("WNID", "O")])
    savemat(meta, {"synsets": synsets})
    data = "ILSVRC2012_devkit_t12/data/"
    text = "".join(f"{number}\n" for number in truth).encode()
    return _pack(
        {
            data + "meta.mat": meta.getvalue(),
            data + "ILSVRC2012_validation_ground_truth.txt": text,
        },
        "w:gz",
    )
