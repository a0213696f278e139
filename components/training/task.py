"""What `fit` asks of a kind of training: it hides the modality from the loop."""

from typing import Any, Literal, Protocol, runtime_checkable

from torch import Tensor, nn


@runtime_checkable
class Task(Protocol):
    """Model, loss and validation figures of one kind of training.

    Randomness comes from torch's default generators (which `fit` seeds before each micro-batch) or is a pure function
    of the batch; a task keeps no state of its own between steps, or a resumed run would differ.
    """

    @property
    def model(self) -> nn.Module: ...

    @property
    def better(self) -> Literal["higher", "lower"]: ...  # of the first figure of `validate`

    def loss(self, batch: Any) -> tuple[Tensor, dict[str, Tensor | float]]:
        """Mean loss (a scalar) of one batch on the model's device, and further scalars for the curves."""
        ...

    def validate(self) -> dict[str, float]:
        """Figures on validation data, the main one first. Called in eval mode, without gradients, under autocast."""
        ...
