"""Performer: softmax's kernel by positive orthogonal random features (FAVOR+; Choromanski et al. 2021).

exp(q.k) is the mean over Gaussian w of exp(w.q - |q|^2/2) exp(w.k - |k|^2/2) (equation 7): with m such features a
sequence is summed once, whatever its length (equation 4), instead of compared pair by pair. The rows of W are
orthogonal within blocks of c (section 2.4), which lowers the variance. The relative error falls about as 1/sqrt(m) and
grows as exp of the queries' and keys' norms: keep them small (a norm over heads) where weights are sharp.
W is a buffer that is saved with the weights, which were trained around it, and it is never redrawn. The exponents are
computed in single precision at least: a half's rounding of an exponent of 10 is a factor of 1.04.
Letters: b batch, h heads, g heads of keys and values, n tokens, c features of a head, m random features.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch._compile import _disable_dynamo

from components.attention.favor import Causal, Full
from components.attention.shapes import check, in_autocast


class PerformerCore(nn.Module):
    """head_features: c; features: m; seed: of their draw."""

    directions: Tensor

    def __init__(self, *, head_features: int, features: int, seed: int = 0, causal: bool) -> None:
        super().__init__()
        if head_features < 1 or features < 1:
            raise ValueError(f"head_features is {head_features} and features {features}: both must be at least 1")
        self.causal = causal
        self.register_buffer("directions", orthogonal_directions(features, head_features, seed))

    def forward(
        self,
        queries: Float[Tensor, "b h n c"],
        keys: Float[Tensor, "b g m c"],
        values: Float[Tensor, "b g m c"],
        mask: Bool[Tensor, "b m"] | None = None,
    ) -> Float[Tensor, "b h n c"]:
        """mask: True where a key is real; a query that sees no real key gets zeros."""
        check(queries, keys, values, mask)
        if queries.shape[3] != self.directions.shape[1]:
            raise ValueError(
                f"heads have {queries.shape[3]} features, and the random ones were drawn for {self.directions.shape[1]}"
            )
        queries, keys, values = in_autocast(queries, keys, values)
        run = _attend_untraced if torch.compiler.is_compiling() else _attend
        return run(queries, keys, values, mask, self.directions, self.causal)


def _attend(
    queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, directions: Tensor, causal: bool
) -> Tensor:
    precise = torch.promote_types(queries.dtype, torch.float32)
    with torch.autocast(queries.device.type, enabled=False):
        parts = (part.to(precise) for part in (queries, keys, values))
        out = (Causal if causal else Full).apply(*parts, mask, directions.to(precise))
    return out.to(queries.dtype)


_attend_untraced = _disable_dynamo(_attend)  # a clean break of a compiled graph, not a graph of every chunk


def orthogonal_directions(features: int, head_features: int, seed: int) -> Float[Tensor, "m c"]:
    """Rows with the lengths of Gaussian vectors, in orthogonal blocks of c (Algorithm 1's "unstructured" draw)."""
    generator = torch.Generator().manual_seed(seed)
    square = head_features, head_features
    blocks = []
    for _ in range(-(-features // head_features)):
        rows, triangle = torch.linalg.qr(torch.randn(square, generator=generator, dtype=torch.float64))
        rows = rows * triangle.diagonal().sign()  # uniform over rotations (Mezzadri 2007): Householder's signs are not
        lengths = torch.randn(square, generator=generator, dtype=torch.float64).norm(dim=1, keepdim=True)
        blocks.append(rows * lengths)
    return torch.cat(blocks)[:features].float()
