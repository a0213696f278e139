"""The arithmetic of benchmarks/training.py, by hand."""

from torch import nn

from benchmarks.peers import Size
from benchmarks.training import operations, rows


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(10, 4)  # 40 weights, which are the output's matrix, too
        self.positions = nn.Embedding(8, 4)  # looked up alone
        self.project = nn.Linear(4, 6)  # 24 weights, and biases
        self.norm = nn.LayerNorm(4)


def test_operations_are_those_of_matrices_and_causal_attention() -> None:
    size = Size(depth=3, width=4, heads=2, vocabulary=10, batch=2, length=8)
    weights, tokens = 40 + 24, 2 * 8
    attention = 6 * 8**2 * 4 * 3 * 2  # of 12 n^2 d a block and row, half: 2 products of 2 n^2 d, thrice, causal
    assert operations(Small(), size) == 6 * weights * tokens + attention


def test_rows_pair_ours_and_theirs_by_round() -> None:
    own, peer = rows({"tsumugi": [1.0, 2.0, 4.0], "other": [3.0, 2.0, 8.0]}, tokens=100)
    assert own == {"peer": "tsumugi", "tokens_per_second": 50, "own_over_it": 1.0, "least": 1.0, "most": 1.0}
    # ratios 3, 1 and 2: their median is 2, whereas that of the times would be 3 / 2
    assert peer == {"peer": "other", "tokens_per_second": 33, "own_over_it": 2.0, "least": 1.0, "most": 3.0}
