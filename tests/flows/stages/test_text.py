"""The text stages from a raw file to a model that evaluate can load, on languages whose best figures are known."""

import json
import math
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from components.data.text import LabelledBatch
from components.data.tokenizer import EOS
from flows.stages import finetune_text, pretrain_text, tokenizer, train_decoder
from tests.flows.stages.small import inside, report, run, take_in

FIT = "batch_size: 32, warmup: 10, validate_every: 50, save_every: 50, seed: 1"
PARAMS = f"""
sources:
  order: {{layout: jsonl, path: order.jsonl, fields: {{text: text, label: label}},
          held_out: {{valid: {{share: 0.2}}, test: {{share: 0.1}}}}}}
  words: {{layout: jsonl, path: words.jsonl, fields: {{text: text}},
          held_out: {{valid: {{share: 0.2}}, test: {{share: 0.1}}}}}}
tokenizer:
  bytes: {{english: order, japanese: words, vocabulary: 262}}
pretrain_text:
  order:
    source: order
    tokenizer: bytes
    encoder: {{context: 32, transformer: {{width: 32, depth: 1, heads: 2}}}}
    fit: {{steps: 100, learning_rate: 0.01, {FIT}}}
finetune_text:
  order: {{source: order, pretrained: order, dropout: 0.0, fit: {{steps: 200, learning_rate: 0.01, {FIT}}}}}
  words: {{source: words, pretrained: order, fit: {{steps: 20, learning_rate: 0.01, {FIT}}}}}
train_decoder:
  words:
    source: words
    tokenizer: bytes
    decoder: {{context: 24, transformer: {{width: 32, depth: 1, heads: 2}}}}
    fit: {{steps: 100, learning_rate: 0.01, {FIT}}}
  long:
    source: words
    tokenizer: bytes
    decoder: {{context: 100000, transformer: {{width: 32, depth: 1, heads: 2}}}}
    fit: {{steps: 200, learning_rate: 0.01, {FIT}}}
"""
WORDS = ("cat", "dog", "hen", "fly")  # no letter twice: after the first one a word is sure, and so is the <eos>


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with both sources ingested, validated and a tokenizer of bytes.

    `order`: is the cat named before the dog? Every text holds the same words. `words`: one of four, even odds.
    """
    root = tmp_path_factory.mktemp("project")
    rng = random.Random(0)
    orders = [rng.sample(["cat", "dog", "owl"], 3) for _ in range(600)]
    words = rng.choices(WORDS, k=1500)
    rows = {
        "order": [{"text": " ".join(o), "label": str(o.index("cat") < o.index("dog"))} for o in orders],
        "words": [{"text": word} for word in words],
    }
    (root / "params.yaml").write_text(PARAMS)
    with inside(root):
        for name, some in rows.items():
            (root / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in some))
            take_in(name)
        assert run(tokenizer, "bytes") == 0
    return root


@pytest.fixture(autouse=True)
def _there(project: Path) -> Iterator[None]:
    with inside(project):
        yield


def metrics(stage: str, key: str) -> dict[str, float]:
    return report(stage, key, "metrics.json")


@pytest.fixture(scope="module")
def pretrained(project: Path) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(project)
        assert run(pretrain_text, "order") == 0
    return project / "models/pretrain_text/order"


def test_pretraining_learns_the_words(pretrained: Path) -> None:
    figures = metrics("pretrain_text", "order")
    assert next(iter(figures)) == "loss"
    assert figures["accuracy"] > 0.6  # of the letters; the commonest one is a fifth
    assert {path.name for path in pretrained.iterdir()} == {"model.safetensors", "config.json", "tokenizer.json"}
    rows = [json.loads(line) for line in Path("reports/pretrain_text/order/curves.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "valid_loss" in row] == [50, 100]


def test_finetuning_learns_an_order_that_no_bag_of_words_shows(pretrained: Path) -> None:
    assert pretrained.is_dir()
    assert run(finetune_text, "order") == 0
    assert metrics("finetune_text", "order")["accuracy"] > 0.98
    model = finetune_text.load(Path("models/finetune_text/order"), torch.device("cpu"))
    chances = model.classify([{"text": "cat owl dog"}, {"text": "dog cat owl"}, {"text": "owl cat dog"}, {"text": ""}])
    assert chances.shape == (4, 2)
    assert chances.sum(1) == pytest.approx(1.0, abs=1e-5)
    assert [model.classes[best] for best in chances[:3].argmax(1)] == ["True", "False", "True"]


def test_divergence_is_the_mean_of_both_directions() -> None:
    first, second = (torch.randn(5, 4, generator=torch.Generator().manual_seed(i)).log_softmax(1) for i in (0, 1))
    both = [
        torch.nn.functional.kl_div(a, b, log_target=True, reduction="batchmean")
        for a, b in ((first, second), (second, first))
    ]
    torch.testing.assert_close(finetune_text.divergence(first, second), (both[0] + both[1]) / 2)


def test_agreement_costs_nothing_where_no_dropout_disagrees(pretrained: Path) -> None:
    """And something where it does."""
    model = finetune_text.load(Path("models/finetune_text/order"), torch.device("cpu")).model
    batch = LabelledBatch(torch.randint(6, 200, (4, 9)), torch.ones(4, 9, dtype=torch.bool), torch.tensor([0, 1, 1, 0]))
    losses = [finetune_text.ClassifyTexts(model, [], 0.1, weight).loss(batch)[0] for weight in (0.0, 3.0)]  # type: ignore[arg-type]
    torch.testing.assert_close(losses[0], losses[1])
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.5
    model.train()
    torch.manual_seed(0)
    apart = finetune_text.ClassifyTexts(model, [], 0.1, 3.0).loss(batch)[0]  # type: ignore[arg-type]
    torch.manual_seed(0)
    labels = finetune_text.ClassifyTexts(model, [], 0.1, 1e-9).loss(batch)[0]  # type: ignore[arg-type]
    assert apart > labels


def test_finetuning_starts_from_the_pretrained_encoder(pretrained: Path, project: Path) -> None:
    few = PARAMS.replace("dropout: 0.0, fit: {steps: 200", "dropout: 0.0, fit: {steps: 11").replace("0.01", "1.0e-12")
    (project / "params.yaml").write_text(few)
    try:
        assert run(finetune_text, "order") == 0
    finally:
        (project / "params.yaml").write_text(PARAMS)
    before, after = (
        load_file(folder / "model.safetensors") for folder in (pretrained, project / "models/finetune_text/order")
    )
    encoder = {name for name in before if name.startswith("encoder.")}
    assert encoder == {name for name in after if name.startswith("encoder.")}
    assert all(torch.allclose(before[name], after[name], atol=1e-6) for name in encoder)


def test_the_decoder_reaches_the_entropy_of_its_language_and_not_less() -> None:
    assert run(train_decoder, "words") == 0
    figures = metrics("train_decoder", "words")
    assert next(iter(figures)) == "bits_per_byte"
    entropy = math.log2(len(WORDS)) / 4  # three letters and the <eos>
    assert 0.98 * entropy < figures["bits_per_byte"] < 1.1 * entropy
    assert figures["bits_per_byte"] == pytest.approx(figures["loss"] / math.log(2))  # a token is a byte
    sample = Path("reports/train_decoder/words/sample.txt").read_text().splitlines()
    assert sum(word in WORDS for word in sample) >= len(sample) - 1  # the context may end within a word


def test_a_loaded_decoder_knows_what_follows() -> None:
    model = train_decoder.load(Path("models/train_decoder/words"), torch.device("cpu"))
    ids = torch.tensor([[EOS, *model.tokenizer.encode("hen", add_special_tokens=False).ids]])
    chances = model.decoder(ids).softmax(-1)[0]
    first = chances[0, [model.tokenizer.token_to_id(word[0]) for word in WORDS]]
    assert first.tolist() == pytest.approx([0.25] * 4, abs=0.08)
    assert chances[1, model.tokenizer.token_to_id("e")] > 0.9
    assert chances[3, EOS] > 0.9


@pytest.mark.parametrize(
    ("module", "key", "line"),
    [
        (finetune_text, "words", "finetune_text@words: words holds no texts with labels: name a source"),
        (train_decoder, "long", "too few for one window of 100000 + 1: lower decoder.context"),
    ],
)
def test_what_cannot_be_trained_on_is_one_line(
    pretrained: Path, capsys: pytest.CaptureFixture[str], module, key: str, line: str
) -> None:
    assert pretrained.is_dir()
    assert run(module, key) == 1
    error = capsys.readouterr().err
    assert line in error
    assert error.count("\n") == 1
