"""Configuration of image augmentation. The keys have the names of the MindSpore recipe."""

import math
import re
from dataclasses import dataclass
from typing import Literal

from tools.errors import UserError
from tools.ranges import number

MAX_MAGNITUDE = 10  # magnitudes of RandAugment are 0 to 10
# With a larger standard deviation, magnitudes are uniformly distributed from 0 to the given one.
_UNIFORM_ABOVE = 100


@dataclass(frozen=True, slots=True)
class RandAugment:
    """A RandAugment policy; `parse_rand_augment` reads it from a text.

    Attributes:
        magnitude: mean magnitude of an operation, 0 to 10.
        num_operations: number of operations per image.
        magnitude_std: standard deviation of the magnitude; infinite: the magnitude is uniformly
            distributed from 0 to `magnitude`.
        max_magnitude: upper limit of the magnitude.
        increasing: whether every operation changes the image more with growing magnitude.
        probability: probability to apply each chosen operation.
        weighted: whether to choose operations by the weights of set 0 and without replacement.

    Source: Cubuk et al., RandAugment (2019); keys and ranges of timm 1.0, `rand_augment_transform`.
    """

    magnitude: float = MAX_MAGNITUDE
    num_operations: int = 2
    magnitude_std: float = 0.0
    max_magnitude: float = MAX_MAGNITUDE
    increasing: bool = False
    probability: float = 0.5
    weighted: bool = False


def parse_rand_augment(text: str) -> RandAugment | None:
    """Reads a policy such as "rand-m9-mstd0.5-inc1".

    Args:
        text: "rand", followed by any of `-mN` magnitude, `-nN` operations per image, `-mstdX`
            standard deviation of the magnitude, `-mmaxN` upper limit of the magnitude, `-inc1`
            increasing operations, `-pX` probability, `-w0` weighted choice.

    Returns:
        The policy; None if the text is empty or "none".

    Raises:
        UserError: the text does not start with "rand", or has an unknown key or a value out of
            range.
    """
    kind, *keys = text.strip().split("-")
    if kind.lower() in ("", "none") and not keys:
        return None
    if kind != "rand":
        raise UserError.expected(
            'an auto_augment like "rand-m9-mstd0.5-inc1", or "none"', text, "Correct auto_augment"
        )
    names = {
        "m": "magnitude",
        "n": "num_operations",
        "mstd": "magnitude_std",
        "mmax": "max_magnitude",
        "inc": "increasing",
        "p": "probability",
        "w": "weighted",
    }
    found: dict[str, float] = {}
    for key in keys:
        match = re.fullmatch(r"([a-z]+)(\d+(?:\.\d+)?|inf)", key)
        if match is None or match[1] not in names or names[match[1]] in found:
            raise UserError.expected(
                f"auto_augment keys {', '.join(names)}, each once and with a number",
                f"{key} in {text}",
                "Correct auto_augment",
            )
        found[names[match[1]]] = float(match[2])
    if found.get("magnitude_std", 0.0) > _UNIFORM_ABOVE:
        found["magnitude_std"] = math.inf
    if found.get("weighted", 0) != 0 or found.get("increasing", 0) not in (0, 1):
        raise UserError.expected("inc0, inc1 or w0 in auto_augment", text, "Correct auto_augment")
    if "weighted" in found:
        found["weighted"] = True
    if "increasing" in found:
        found["increasing"] = bool(found["increasing"])
    if "num_operations" in found:
        found["num_operations"] = _integer(found["num_operations"])
    policy = RandAugment(**found)
    # Each operation adds a switch to the graph; more than a few are most likely a typing error.
    if not (
        1 <= policy.num_operations <= 10
        and policy.probability <= 1
        and math.isfinite(policy.magnitude)
        and 0 < policy.max_magnitude <= _UNIFORM_ABOVE
    ):
        raise UserError.expected(
            "auto_augment with a finite m, n from 1 to 10, p up to 1 and mmax from 1 to 100",
            text,
            "Correct auto_augment",
        )
    return policy


def _integer(value: float) -> int:
    """Returns the value as an integer; 0, which is out of range, if it is not a whole number."""
    return int(value) if value.is_integer() else 0


@dataclass(frozen=True, slots=True)
class AugmentationConfig:
    """Random crop, RandAugment, erasing and mixing of training images, and label smoothing."""

    auto_augment: str = "rand-m9-mstd0.5-inc1"  # "none": no RandAugment
    # Interpolation of the operations that move pixels. Crops are resized as in evaluation.
    aa_interpolation: Literal["bilinear", "bicubic", "nearest"] = "bilinear"
    min_crop: float = number(0.08, above=0, at_most=1)  # smallest area of a crop / area of image
    hflip: float = number(0.5, at_least=0, at_most=1)  # probability of a horizontal flip
    # Largest change of brightness, contrast and color. Used without auto_augment only (timm: 0.4).
    color_jitter: float = number(0.0, at_least=0)
    re_prob: float = number(0.25, at_least=0, at_most=1)  # probability of random erasing
    # Fill with: pixel: noise, const: the mean color, rand: one random color.
    re_mode: Literal["pixel", "const", "rand"] = "pixel"
    re_count: int = number(1, at_least=1, at_most=100)  # largest number of boxes per image
    # Mixing ratios are drawn from Beta(x, x), where x is the value of mixup or cutmix. 0: off.
    mixup: float = number(0.8, at_least=0)
    cutmix: float = number(1.0, at_least=0)
    mixup_prob: float = number(1.0, at_least=0, at_most=1)  # probability of mixup or cutmix
    switch_prob: float = number(0.5, at_least=0, at_most=1)  # of cutmix, if mixup is on as well
    # Draw the mixing once for a batch, for each pair of images, or for each image.
    mixup_mode: Literal["batch", "pair", "elem"] = "batch"
    mixup_off_epoch: int = number(0, at_least=0)  # no mixing from this epoch on; 0: always mix
    label_smoothing: float = number(0.1, at_least=0, at_most=1)
    # Number of variants of each image in an epoch. The length of an epoch does not change: an
    # epoch then uses a part of the images (DeiT: 3).
    repeated_augmentation: int = number(1, at_least=1, at_most=100)

    def validate(self) -> None:
        """Checks that `auto_augment` is a policy; raises UserError otherwise."""
        parse_rand_augment(self.auto_augment)

    @property
    def mixes(self) -> bool:
        """Whether training uses mixup or cutmix."""
        return self.mixup_prob > 0 and (self.mixup > 0 or self.cutmix > 0)
