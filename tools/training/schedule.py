"""Learning rates by step: plain arithmetic on the host, so resuming needs no state for them."""

import math

from tools.training.config import ScheduleConfig


def learning_rate(config: ScheduleConfig, step: int, total_steps: int) -> float:
    """Gives the learning rate of a step.

    Args:
        config: the schedule.
        step: number of the step, from 1.
        total_steps: steps of the whole run, where cosine ends.

    Returns:
        Linear warm-up to `peak`; then the inverse square root of the step (transformer), half a
        cosine down to `final`, or `peak` for good.

    Source: Vaswani et al., Attention is all you need (2017), section 5.3; Loshchilov and Hutter,
    SGDR (2017), equation 5.
    """
    if step <= config.warmup_steps:
        return config.peak * step / config.warmup_steps
    if config.name == "transformer":
        return config.peak * math.sqrt(config.warmup_steps / step)
    if config.name == "cosine":
        share = (step - config.warmup_steps) / max(1, total_steps - config.warmup_steps)
        wave = 0.5 * (1.0 + math.cos(math.pi * min(1.0, share)))
        return config.final + (config.peak - config.final) * wave
    return config.peak
