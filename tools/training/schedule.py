"""Learning rate schedules, as functions of the step that need no state."""

import math

from tools.training.config import ScheduleConfig


def learning_rate(
    config: ScheduleConfig, step: int, total_steps: int, steps_per_epoch: float = 1.0
) -> float:
    """Returns the learning rate of a step.

    During the warm-up, the learning rate increases from `warmup_initial` to `peak`: linearly, or
    for one_cycle along half a cosine. After the warm-up it depends on the schedule:

    - transformer: decreases with the inverse square root of the step;
    - cosine, one_cycle: decreases along half a cosine to `final` at the last step;
    - multistep: is multiplied by `decay_rate` every `decay_epochs` epochs of the run;
    - exponential: decreases continuously, by the factor `decay_rate` per epoch;
    - constant: stays at `peak`.

    After the warm-up it is never below `final`.

    Args:
        config: the schedule.
        step: number of the step, from 1.
        total_steps: number of steps of the whole run.
        steps_per_epoch: number of steps in an epoch.

    Source: Vaswani et al., Attention is all you need (2017), section 5.3; Loshchilov and Hutter,
    SGDR (2017), equation 5; Smith and Topin, Super-convergence (2018), in the cosine form of
    PyTorch's OneCycleLR.
    """
    warmup_steps = config.warmup_steps
    if config.warmup_epochs is not None:
        warmup_steps = config.warmup_epochs * steps_per_epoch
    place = float(step)
    if config.by_epoch:
        place = (step - 1) // steps_per_epoch * steps_per_epoch
    if place < warmup_steps:
        share = place / warmup_steps
        share = _half_cosine(share) if config.name == "one_cycle" else share
        return config.warmup_initial + (config.peak - config.warmup_initial) * share
    return max(
        config.final,
        _after_warmup(config, place, warmup_steps, total_steps, steps_per_epoch=steps_per_epoch),
    )


def _after_warmup(config, place, warmup_steps, total_steps, *, steps_per_epoch) -> float:
    match config.name:
        case "transformer":
            return config.peak * math.sqrt(warmup_steps / max(place, 1.0))
        case "cosine" | "one_cycle":
            share = (place - warmup_steps) / max(1.0, total_steps - warmup_steps)
            return config.peak - (config.peak - config.final) * _half_cosine(share)
        case "multistep":
            # Subtract 1: the last step of an epoch belongs to that epoch.
            epochs = place / steps_per_epoch if config.by_epoch else (place - 1) / steps_per_epoch
            return config.peak * config.decay_rate ** (epochs // config.decay_epochs)
        case "exponential":
            return config.peak * config.decay_rate ** ((place - warmup_steps) / steps_per_epoch)
    return config.peak


def _half_cosine(share: float) -> float:
    """Returns half a cosine that increases from 0 to 1 as the share goes from 0 to 1."""
    return 0.5 * (1.0 - math.cos(math.pi * min(1.0, share)))
