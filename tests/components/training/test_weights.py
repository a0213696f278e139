"""Models as folders: the same bytes each time, tied tensors, and files that do not fit."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from components.training.weights import load_config, load_weights, save_model, weights


def tied() -> nn.Module:
    model = nn.Sequential(nn.Embedding(5, 3), nn.BatchNorm1d(3), nn.Linear(3, 5, bias=False))
    model[2].weight = model[0].weight
    return model


def test_round_trip_with_tied_weights_and_buffers(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = tied()
    model[1].running_mean.fill_(0.25)
    save_model(tmp_path / "a", model, {"width": 3, "言語": "日本語"})
    other = tied()
    load_weights(tmp_path / "a", other)
    assert all(torch.equal(value, weights(other)[name]) for name, value in weights(model).items())
    assert other[2].weight is other[0].weight
    assert "2.weight" not in weights(model) and "1.running_mean" in weights(model)
    assert load_config(tmp_path / "a") == {"width": 3, "言語": "日本語"}


def test_equal_weights_give_equal_bytes(tmp_path: Path) -> None:
    model = nn.Sequential(*(nn.Linear(3, 3) for _ in range(12)))
    for name in "ab":
        save_model(tmp_path / name, model, dict.fromkeys("ab" if name == "a" else "ba", 1))
    for name in ("model.safetensors", "config.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["config.json", "model.safetensors"]
    assert (tmp_path / "a" / "model.safetensors").stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (nn.Linear(3, 4), r"weight is \[2, 3\] there and \[4, 3\] in the model"),
        (nn.Linear(3, 2, bias=False), "it has bias, which the model lacks"),
        (nn.Sequential(nn.Linear(3, 2)), "it lacks 0.weight"),
    ],
)
def test_another_model_is_refused_in_one_line(tmp_path: Path, other: nn.Module, message: str) -> None:
    save_model(tmp_path, nn.Linear(3, 2), {})
    with pytest.raises(ValueError, match=f"^{tmp_path}/model.safetensors is of another model: {message}$"):
        load_weights(tmp_path, other)


@pytest.mark.parametrize("size", [0, 5, 40, 100])
def test_a_truncated_file_is_refused_in_one_line(tmp_path: Path, size: int) -> None:
    save_model(tmp_path, nn.Linear(3, 2), {})
    path = tmp_path / "model.safetensors"
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(ValueError, match=r"model.safetensors is damaged \([^\n]*\): make it again$"):
        load_weights(tmp_path, nn.Linear(3, 2))


def test_config_is_readable_json(tmp_path: Path) -> None:
    save_model(tmp_path, nn.Linear(3, 2), {"b": [1, 2.5], "a": None})
    assert json.loads((tmp_path / "config.json").read_text()) == {"a": None, "b": [1, 2.5]}


def test_a_damaged_configuration_is_refused_in_one_line(tmp_path: Path) -> None:
    save_model(tmp_path, nn.Linear(3, 2), {"width": 3})
    (tmp_path / "config.json").write_text('{"width"')
    with pytest.raises(ValueError, match=rf"^{tmp_path}/config.json is damaged \([^\n]*\): make it again$"):
        load_config(tmp_path)


def test_a_flipped_header_is_refused_in_one_line(tmp_path: Path) -> None:
    save_model(tmp_path, nn.Linear(3, 2), {})
    path = tmp_path / "model.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[:9] + b"\xff" + content[10:])
    with pytest.raises(ValueError, match=r"model.safetensors is damaged \([^\n]*\): make it again$"):
        load_weights(tmp_path, nn.Linear(3, 2))


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="model.safetensors"):
        load_weights(tmp_path, nn.Linear(3, 2))
