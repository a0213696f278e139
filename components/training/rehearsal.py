"""What a step will cost, before the first one: memory and FLOPs of forward and backward pass on a batch.

A large model rehearses with tensors that have shapes and no data (torch's FakeTensor), which takes neither memory nor
long. A small one, and one that looks at its data (counts masked tokens, say), runs for real, on one micro-batch: for
small ones that is quicker than loading what fake tensors need. Either way no weight, buffer or generator is changed:
`fit` seeds the generators before each micro-batch.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.nn.utils.stateless import _reparametrize_module

from components.training.compiled import eager
from components.training.config import FitConfig
from components.training.device import device_of, move, reseed
from components.training.memory import Ledger, Memory
from components.training.optimiser import hidden_matrices
from components.training.precision import autocast
from components.training.task import Task
from components.training.weights import stored

SMALL = 32e6  # bytes of weights: below, a real pass is the quicker one


@dataclass(frozen=True)
class Rehearsal:
    memory: Memory
    flops: int  # of a micro-batch, forward and backward, what is computed again counted again


def estimate(task: Task, batch: Any, config: FitConfig) -> Memory:
    """Memory of a training step on such a batch (which lies on the CPU or the model's device)."""
    return rehearse(task, batch, config).memory


def rehearse(task: Task, batch: Any, config: FitConfig) -> Rehearsal:
    """Raises what the task raises on this batch."""
    if total(stored(task.model).values()) >= SMALL:
        try:
            with without_data(task.model):
                return _passes(task, batch, config)
        except Exception:
            pass  # it looks at data, or has an operation without a fake; an error of its own comes again below
    with unchanged(task.model):
        return _passes(task, batch, config)


def _passes(task: Task, batch: Any, config: FitConfig) -> Rehearsal:
    """Forward and backward; twice where gradients are accumulated, as the second meets those of the first."""
    device, flops = device_of(task.model), 0
    with eager(config.compile), Ledger() as ledger:  # blocks compiled under a ledger would keep other code
        for part in range(min(config.accumulation, 2)):
            reseed(device, config.seed, 0, part)
            moved = move(batch, device)
            with autocast(config.precision, device):
                loss, _ = task.loss(moved)
            loss.backward()
            flops = flops or ledger.flops
    own = stored(task.model)
    trained = [parameter for parameter in task.model.parameters() if parameter.requires_grad]
    moments = 2 * total(trained)
    if config.optimiser == "muon":  # one momentum instead of two moments
        moments -= total(own[name] for name in hidden_matrices(task.model))
    copies = (config.ema > 0) + (config.keep == "best")
    gradients = total(trained)
    activations = max(0, ledger.peak - gradients)
    return Rehearsal(Memory(total(own.values()), gradients, moments + copies * total(own.values()), activations), flops)


@contextmanager
def without_data(model: nn.Module) -> Iterator[None]:
    """The model's tensors, and all that are made inside, have shapes only."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        named = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
        with _reparametrize_module(model, {name: mode.from_tensor(tensor) for name, tensor in named}):
            yield


@contextmanager
def unchanged(model: nn.Module) -> Iterator[None]:
    """Gradients are dropped at the end, and buffers are what they were."""
    before = [(buffer, buffer.clone()) for buffer in model.buffers()]
    try:
        yield
    finally:
        model.zero_grad()
        for buffer, value in before:
            buffer.copy_(value)


def total(tensors: Iterable[Tensor]) -> int:
    """Bytes."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
