"""Linear warm-up, then half a cosine: SGDR without restarts (Loshchilov & Hutter, arXiv:1608.03983, eq. 5).

A pure function of the step, so that nothing of it is kept in a checkpoint. The rate would be 0 at step -1, is 1 at step
`warmup` and would be `final_share` at step `steps`: no step is spent at zero on either end.
"""

import math


def rate(step: int, steps: int, warmup: int, final_share: float) -> float:
    """Share of the peak learning rate at `step`, counted from 0."""
    if step < warmup:
        return (step + 1) / (warmup + 1)
    progress = (step - warmup) / (steps - warmup)
    return final_share + (1 - final_share) * (1 + math.cos(math.pi * progress)) / 2
