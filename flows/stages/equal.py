"""Models that are compared have equal parameters, or the stage that compares them refuses."""

from collections.abc import Sequence

from components.decoders.config import Rival
from components.transformer.config import TransformerConfig
from flows.stages.runtime import StageError

EQUAL = 0.02  # share by which the models' parameters may differ


def equal_sizes(models: Sequence[Rival], shape: TransformerConfig, context: int, vocabulary: int) -> dict[str, int]:
    """Parameters of the decoder of each kind, and of the Transformer. StageError where they are not equal."""
    from components.decoders.rivals import rival

    kinds: list[Rival] = ["transformer", *models]
    built = {kind: rival(kind, shape, context, vocabulary) for kind in kinds}
    sizes = {kind: sum(each.numel() for each in model.parameters()) for kind, model in built.items()}
    for kind, size in sizes.items():
        if abs(size / sizes["transformer"] - 1) > EQUAL:
            raise StageError(
                f"no {kind} has within {EQUAL:.0%} of the Transformer's {sizes['transformer']:,} parameters (nearest: "
                f"{size:,}): give the transformer more width or depth"
            )
    return sizes
