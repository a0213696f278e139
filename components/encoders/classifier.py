"""A classifier: any encoder, and a linear head on its pooled vector."""

from jaxtyping import Float
from torch import Tensor, nn

from components.encoders.encoded import Encoded, Encoder
from components.encoders.initialise import keep_scale


class ClassHead(nn.Module):
    """Starts small but not at zero: through weights of zero the encoder would learn nothing at first, then slowly."""

    def __init__(self, width: int, classes: int, dropout: float) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.project = nn.Linear(width, classes)
        keep_scale(self)

    def forward(self, pooled: Float[Tensor, "b d"]) -> Float[Tensor, "b classes"]:
        return self.project(self.dropout(pooled))


class Classifier(nn.Module):
    """dropout: share of the pooled features zeroed in training."""

    def __init__(self, encoder: Encoder, classes: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = ClassHead(encoder.width, classes, dropout)

    def forward(self, *inputs: Tensor | None) -> Float[Tensor, "b classes"]:
        """Logits for whatever the encoder takes."""
        encoded: Encoded = self.encoder(*inputs)
        return self.head(encoded.pooled)
