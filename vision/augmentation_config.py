"""Configuration of what training does to images; keys have the names of the MindSpore recipe."""

import math
import re
from dataclasses import dataclass
from typing import Literal

from tools.errors import UserError
from tools.ranges import number

MAX_MAGNITUDE = 10  # the scale on which RandAugment states how strong its operations are
# Above this standard deviation, magnitudes are uniform below the given one.
_UNIFORM_ABOVE = 100


@dataclass(frozen=True, slots=True)
class RandAugment:
    """A RandAugment policy, as `parse_rand_augment` reads it.

    Attributes:
        magnitude: mean strength of an operation, 0..10.
        num_operations: per image.
        magnitude_std: spread of the strength; infinite: uniform from 0 to `magnitude`.
        max_magnitude: bound on the strength.
        increasing: whether every operation gets stronger with the magnitude.
        probability: with which each chosen operation is applied.
        weighted: whether operations are chosen by the weights of set 0, none twice for an image.

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
        text: "rand" and any of `mN` magnitude, `nN` operations per image, `mstdX` spread of the
            magnitude, `mmaxN` its bound, `inc1` increasing operations, `pX` probability, `w0`
            weighted choice. Empty or "none" is no policy.

    Raises:
        UserError: another policy, an unknown key, or a value out of range.
    """
    kind, *keys = text.strip().split("-")
    if kind.lower() in ("", "none") and not keys:
        return None
    if kind != "rand":
        raise UserError.expected(
            'an auto_augment like "rand-m9-mstd0.5-inc1", or "none"', text, "Correct it"
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
                "Correct it",
            )
        found[names[match[1]]] = float(match[2])
    if found.get("magnitude_std", 0.0) > _UNIFORM_ABOVE:
        found["magnitude_std"] = math.inf
    if found.get("weighted", 0) != 0 or found.get("increasing", 0) not in (0, 1):
        raise UserError.expected("inc0, inc1 or w0 in auto_augment", text, "Correct it")
    if "weighted" in found:
        found["weighted"] = True
    if "increasing" in found:
        found["increasing"] = bool(found["increasing"])
    if "num_operations" in found:
        found["num_operations"] = _integer(found["num_operations"])
    policy = RandAugment(**found)
    # More than a few layers would be a mistake; each is one more switch in the graph.
    if not (
        1 <= policy.num_operations <= 10
        and policy.probability <= 1
        and math.isfinite(policy.magnitude)
        and 0 < policy.max_magnitude <= _UNIFORM_ABOVE
    ):
        raise UserError.expected(
            "auto_augment with a finite m, n from 1 to 10, p up to 1 and mmax from 1 to 100",
            text,
            "Correct it",
        )
    return policy


def _integer(value: float) -> int:
    """0 for what is no whole number, so that the range refuses it."""
    return int(value) if value.is_integer() else 0


@dataclass(frozen=True, slots=True)
class AugmentationConfig:
    """How a training image is cut, changed, erased and mixed, and its label with it."""

    auto_augment: str = "rand-m9-mstd0.5-inc1"  # "none": off
    # Of the operations that move pixels; the crop is resized as in evaluation.
    aa_interpolation: Literal["bilinear", "bicubic", "nearest"] = "bilinear"
    min_crop: float = number(0.08, above=0, at_most=1)  # of the image's area, up to all of it
    hflip: float = number(0.5, at_least=0, at_most=1)  # probability
    # Of brightness, contrast, color; only without auto_augment (timm: .4).
    color_jitter: float = number(0.0, at_least=0)
    re_prob: float = number(0.25, at_least=0, at_most=1)  # of erasing
    re_mode: Literal["pixel", "const", "rand"] = "pixel"  # noise, the mean color, one random color
    re_count: int = number(1, at_least=1, at_most=100)  # most boxes per image
    # Both numbers of the beta distribution of shares; 0: off.
    mixup: float = number(0.8, at_least=0)
    cutmix: float = number(1.0, at_least=0)
    mixup_prob: float = number(1.0, at_least=0, at_most=1)  # of mixing at all
    switch_prob: float = number(0.5, at_least=0, at_most=1)  # of cutmix where both are on
    mixup_mode: Literal["batch", "pair", "elem"] = "batch"  # what shares the random numbers
    mixup_off_epoch: int = number(0, at_least=0)  # mixing ends before this epoch; 0: never
    label_smoothing: float = number(0.1, at_least=0, at_most=1)
    # Variants of an image in an epoch of unchanged length (DeiT: 3).
    repeated_augmentation: int = number(1, at_least=1, at_most=100)

    def validate(self) -> None:
        """Checks the policy."""
        parse_rand_augment(self.auto_augment)

    @property
    def mixes(self) -> bool:
        """Whether any epoch mixes images."""
        return self.mixup_prob > 0 and (self.mixup > 0 or self.cutmix > 0)
