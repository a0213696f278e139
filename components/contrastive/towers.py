"""Two towers (Radford et al. 2021, figure 3): image and text encoder, projected into one space of unit vectors.

The learned scale of the similarities is kept under 100 as there (section 2.5), by clipping the parameter itself before
each training pass: a clamp in the graph would stop its gradient for good once it is passed.
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from components.encoders.encoded import Encoded, Encoder

FIRST_SCALE = 1 / 0.07
LARGEST_SCALE = 100.0


class TwoTowers(nn.Module):
    """space: features of the common space."""

    def __init__(self, image: Encoder, text: Encoder, space: int) -> None:
        super().__init__()
        self.image = image
        self.text = text
        self.project_image = nn.Linear(image.width, space, bias=False)
        self.project_text = nn.Linear(text.width, space, bias=False)
        for projection in (self.project_image, self.project_text):
            nn.init.normal_(projection.weight, std=projection.in_features**-0.5)
        self.logarithm_of_scale = nn.Parameter(torch.tensor(math.log(FIRST_SCALE)))

    def forward(
        self, images: Float[Tensor, "b 3 y x"], ids: Int[Tensor, "b n"], mask: Bool[Tensor, "b n"] | None = None
    ) -> tuple[Float[Tensor, "b space"], Float[Tensor, "b space"], Float[Tensor, ""]]:
        """Unit vectors of pictures and of texts, and the scale of their products: what `clip_loss` takes."""
        if self.training:
            with torch.no_grad():
                self.logarithm_of_scale.clamp_(max=math.log(LARGEST_SCALE))
        return self.embed_images(images), self.embed_texts(ids, mask), self.logarithm_of_scale.exp()

    def embed_images(self, images: Float[Tensor, "b 3 y x"]) -> Float[Tensor, "b space"]:
        encoded: Encoded = self.image(images)
        return F.normalize(self.project_image(encoded.pooled).float(), dim=-1)

    def embed_texts(self, ids: Int[Tensor, "b n"], mask: Bool[Tensor, "b n"] | None = None) -> Float[Tensor, "b space"]:
        encoded: Encoded = self.text(ids, mask)
        return F.normalize(self.project_text(encoded.pooled).float(), dim=-1)
