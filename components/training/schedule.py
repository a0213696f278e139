"""Linear warm-up, then one of four ways down; a pure function of the step, so that no checkpoint holds any of it.

cosine: half a cosine, SGDR without restarts (Loshchilov & Hutter, arXiv:1608.03983, eq. 5). linear: a straight line.
wsd: warm-up, stable, decay (Hu et al. 2024, MiniCPM, arXiv:2404.06395, section 4.3), here with a linear decay
(Hägele et al. 2024, arXiv:2405.18392): a run can be prolonged from its stable part. constant: no way down.

The rate would be 0 at step -1, is 1 at step `warmup` and would be `final_share` at step `steps`: no step is spent at
zero on either end.
"""

import math

from components.training.config import FitConfig


def rate(step: int, config: FitConfig) -> float:
    """Share of the peak learning rate at `step`, counted from 0."""
    if step < config.warmup:
        return (step + 1) / (config.warmup + 1)
    return config.final_share + (1 - config.final_share) * _height(step, config)


def _height(step: int, config: FitConfig) -> float:
    """From 1 at the end of the warm-up to 0 at the end of the run."""
    if config.schedule == "constant":
        return 1.0
    if config.schedule == "wsd":
        return min(1.0, (config.steps - step) / (config.decay_share * config.steps))
    progress = (step - config.warmup) / (config.steps - config.warmup)
    return 1 - progress if config.schedule == "linear" else (1 + math.cos(math.pi * progress)) / 2
