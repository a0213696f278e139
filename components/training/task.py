"""What `fit` asks of a kind of training and of its data: both hide the modality from the loop."""

from typing import Any, Literal, Protocol, runtime_checkable

from torch import Tensor, nn

WEIGHT = "weight"  # among the figures of a loss: see Task.loss


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
        """Mean loss (a scalar) of one batch on the model's device, and further scalars for the curves.

        A figure named "weight" (positive) says how many terms the mean is over, such as tokens that count. With it,
        accumulated micro-batches of unequal weights give the gradient of the large batch; it shows in no curve.
        """
        ...

    def validate(self) -> dict[str, float]:
        """Figures on validation data, the main one first. Called in eval mode, without gradients, under autocast."""
        ...


@runtime_checkable
class Measured(Protocol):
    """A task that says what a batch holds beside examples."""

    def units(self, batch: Any) -> dict[str, int]:
        """Amounts by name, {"tokens": 2048}, to show a second; of a batch that is not on the device yet.

        The first is what a batch's FLOPs are taken to grow with; without any they are shown while shapes stay the same.
        """
        ...


@runtime_checkable
class Named(Protocol):
    """Batches whose examples can be named, for reports."""

    def names(self, number: int) -> list[str]:
        """Names of the examples in the micro-batch of that number, counted from the start of the run."""
        ...
