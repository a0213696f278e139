"""What cores ask of their inputs, and the precision and layout that they compute in."""

import torch
from torch import Tensor


def check(queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> None:
    """ValueError unless queries are [b h n c], keys and values [b g n c], g divides h, and the mask is bool [b n]."""
    batch, heads, length, features = queries.shape
    if keys.shape != values.shape:
        raise ValueError(f"keys are {list(keys.shape)} and values {list(values.shape)}: they need one shape")
    if keys.shape[2] != length:
        raise ValueError(
            f"{keys.shape[2]} keys do not fit {length} queries: this attention takes a whole sequence at once, "
            "no cache and no keys of another"
        )
    if (keys.shape[0], keys.shape[3]) != (batch, features):
        raise ValueError(
            f"keys are {list(keys.shape)} and queries {list(queries.shape)}: they need one batch and one count of "
            "features a head"
        )
    if heads % keys.shape[1]:
        raise ValueError(f"{heads} heads of queries do not divide by {keys.shape[1]} heads of keys: choose a divisor")
    if mask is not None and (mask.dtype, mask.shape) != (torch.bool, (batch, length)):
        raise ValueError(
            f"the mask is {mask.dtype} {list(mask.shape)}: it must be torch.bool [{batch}, {length}], True where a key "
            "is real"
        )


def in_autocast(*tensors: Tensor) -> tuple[Tensor, ...]:
    """The tensors in autocast's precision where it is on, as SDPA would take them; unchanged elsewhere."""
    device = tensors[0].device.type
    if not torch.is_autocast_enabled(device):
        return tensors
    return tuple(tensor.to(torch.get_autocast_dtype(device)) for tensor in tensors)


def inner_contiguous(tensor: Tensor) -> Tensor:
    """The CPU's flash kernel wants the features of a head side by side, and computes nonsense where they are not."""
    return tensor if tensor.stride(-1) == 1 else tensor.contiguous()
