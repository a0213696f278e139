"""Which parameters are decayed or orthogonalised, updates against the papers' formulas, and restored state."""

import copy
import math

import numpy as np
import pytest
import timm
import torch
from torch import nn

from components.encoders.text import TextEncoder
from components.encoders.text_config import TextConfig
from components.training.muon import Muon
from components.training.optimiser import Optimiser, build
from components.transformer.config import TransformerConfig
from tests.components.training.toy import Stacked, config, equal


def decays(model: nn.Module) -> dict[str, float]:
    """Weight decay of each parameter by name; absent where the optimiser does not know it."""
    groups = build(model, config(weight_decay=0.3)).param_groups
    by_identity = {id(parameter): group["weight_decay"] for group in groups for parameter in group["params"]}
    return {name: by_identity[id(p)] for name, p in model.named_parameters() if id(p) in by_identity}


def test_own_encoder() -> None:
    shape = TransformerConfig(width=8, depth=1, heads=2, positions="learned")
    found = decays(TextEncoder(TextConfig(shape, context=4), vocabulary=5))
    assert {name for name, decay in found.items() if decay} == {
        "embedding.weight",
        "stack.blocks.0.attention.project_in.weight",
        "stack.blocks.0.attention.project_out.weight",
        "stack.blocks.0.feed_forward.project_in.weight",
        "stack.blocks.0.feed_forward.project_out.weight",
    }
    assert found["stack.positions.table"] == 0
    assert len(found) == 16


def test_timm_vit_agrees_with_timm() -> None:
    model = timm.create_model("vit_tiny_patch16_224", img_size=32, depth=1, embed_dim=12, num_heads=2)
    spared = model.no_weight_decay()  # type: ignore[operator]
    expected = {n: 0.0 if p.ndim == 1 or n in spared else 0.3 for n, p in model.named_parameters()}
    assert decays(model) == expected
    assert expected["pos_embed"] == expected["cls_token"] == 0


def test_frozen_parameters_are_left_out_and_tied_ones_come_once() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 3))
    model[0].requires_grad_(False)
    model[2].weight = model[1].weight
    assert set(decays(model)) == {"1.weight", "1.bias", "2.bias"}


def test_one_step_by_hand() -> None:
    """arXiv:1711.05101, algorithm 2: after one step the bias-corrected moments are g and g^2."""
    model = nn.Linear(1, 1)
    nn.init.constant_(model.weight, 2.0)
    nn.init.constant_(model.bias, 3.0)
    optimiser = build(model, config(weight_decay=0.1, betas=(0.9, 0.99)))
    optimiser.set_rate(0.5)
    model(torch.tensor([[4.0]])).sum().backward()
    optimiser.step()
    assert math.isclose(model.weight.item(), 2 - 0.5 * 0.1 * 2 - 0.5, rel_tol=1e-6)
    assert math.isclose(model.bias.item(), 3 - 0.5, rel_tol=1e-6)


def orthogonal(matrix: np.ndarray) -> np.ndarray:
    """Newton-Schulz as in the post, in double precision: X <- aX + b(XX')X + c(XX')^2 X, five times."""
    matrix = matrix / np.linalg.norm(matrix)
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    for _ in range(5):
        gram = wide @ wide.T
        wide = 3.4445 * wide + (-4.7750 * gram + 2.0315 * gram @ gram) @ wide
    return wide if matrix.shape[0] <= matrix.shape[1] else wide.T


@pytest.mark.parametrize("shape", [(6, 3), (3, 6)])
def test_two_steps_of_muon_by_the_papers_formula(shape: tuple[int, int]) -> None:
    """Jordan et al. 2024 with Nesterov's momentum; the update times 0.2 sqrt(max(rows, columns)) (Liu et al. 2025)."""

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.blocks = nn.ModuleList([nn.Linear(shape[1], shape[0])])

    model = Model()
    optimiser = build(model, config(optimiser="muon", weight_decay=0.1))
    weight, momentum = model.blocks[0].weight, np.zeros(shape)
    expected = weight.detach().double().numpy().copy()
    for step, rate in enumerate((0.5, 0.25)):
        gradient = np.random.default_rng(step).normal(size=shape)
        weight.grad = torch.from_numpy(gradient).float()
        optimiser.set_rate(rate)
        optimiser.step()
        momentum = 0.95 * momentum + 0.05 * gradient
        update = orthogonal(0.95 * momentum + 0.05 * gradient)
        expected = expected * (1 - rate * 0.1) - rate * 0.2 * math.sqrt(max(shape)) * update
        np.testing.assert_allclose(weight.detach().numpy(), expected, rtol=1e-4, atol=1e-5)


def test_muon_agrees_with_torchs_own_to_its_rounding() -> None:
    one, other = (nn.Parameter(torch.linspace(-1, 1, 60).sin().view(6, 10)) for _ in range(2))
    ours = Muon([one], lr=0.1)
    theirs = torch.optim.Muon([other], lr=0.1, adjust_lr_fn="match_rms_adamw")
    for number in range(5):
        gradient = torch.randn(6, 10, generator=torch.Generator().manual_seed(number))
        for parameter, optimiser in ((one, ours), (other, theirs)):
            parameter.grad = gradient.clone()
            optimiser.step()
    torch.testing.assert_close(one, other, atol=0.02, rtol=0)  # its products are in bf16, three digits


def test_muon_gets_the_matrices_of_blocks_and_adamw_the_rest() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding(5, 4)
            self.blocks = nn.ModuleList([nn.ModuleDict({"mix": nn.Linear(4, 4), "table": nn.Embedding(3, 4)})])
            self.blocks[0].position = nn.Parameter(torch.zeros(3, 4))
            self.head = nn.Linear(4, 5)

    model = Model()
    parts = build(model, config(optimiser="muon")).parts
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    found = [{names[id(p)] for group in part.param_groups for p in group["params"]} for part in parts]
    assert found[1] == {"blocks.0.mix.weight"} and found[0] == set(names.values()) - found[1]


def test_muon_without_blocks_is_refused() -> None:
    with pytest.raises(ValueError, match="^muon: Linear has no matrices to train inside blocks.<i>: set adamw"):
        build(nn.Linear(2, 2), config(optimiser="muon"))


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_restored_it_goes_on_with_the_same_bits(kind: str) -> None:
    def steps(model: nn.Module, optimiser: Optimiser, numbers: range) -> None:
        for number in numbers:
            model(torch.ones(2, 4) * number).sum().backward()
            optimiser.set_rate(0.01)
            optimiser.step()
            optimiser.zero_grad()

    settings = config(optimiser=kind, layer_decay=0.5)
    torch.manual_seed(0)
    model = Stacked(0.0)
    optimiser = build(model, settings)
    steps(model, optimiser, range(1, 4))
    other = copy.deepcopy(model)
    restored = build(other, settings)
    restored.restore(optimiser.tensors())
    for each, its in ((model, optimiser), (other, restored)):
        steps(each, its, range(4, 7))
    assert equal(model, other)
