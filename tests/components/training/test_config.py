"""Names that a configuration built in code may hold."""

import jaxtyping
import pytest

from tests.components.training.toy import config


@pytest.mark.parametrize(
    ("field", "name", "known"),
    [
        ("schedule", "cosin", "cosine, linear, wsd, constant"),
        ("optimiser", "adam", "adamw, muon"),
        ("precision", "fp8", "fp32, bf16, fp16"),
        ("activations", "kept", "keep, selective, recompute"),
        ("keep", "first", "last, best"),
    ],
)
def test_an_unknown_name_is_refused_with_the_known_ones(
    field: str, name: str, known: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as people run it
    with pytest.raises(ValueError, match=f"^{field} '{name}' is unknown: known are {known}$"):
        config(**{field: name})
