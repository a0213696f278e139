"""Nothing is unpickled: a pickle runs what code its writer likes. What ruff's S301 and S403 do not know of is here."""

import ast
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MODULES = {"pickle", "cPickle", "_pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal", "jsonpickle"}
CALLS = {"torch.load", "torch.hub.load", "torch.jit.load", "pandas.read_pickle", "pd.read_pickle"}


def found(code: str) -> Iterator[str]:
    """Where a piece of Python unpickles, or could be told to by what it reads."""
    for node in ast.walk(ast.parse(code)):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        if any(name.split(".")[0] in MODULES or name in CALLS for name in names):
            yield f"line {node.lineno}: {', '.join(names)}"
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            allowed = [each.value for each in node.keywords if each.arg == "allow_pickle"]
            if name in CALLS or any(not isinstance(each, ast.Constant) or each.value for each in allowed):
                yield f"line {node.lineno}: {name}"


@pytest.mark.parametrize(
    ("code", "times"),
    [
        ("import pickle", 1), ("from joblib import load", 1), ("from torch import load", 1), ("torch.load(path)", 1),
        ("np.load(path, allow_pickle=True)", 1), ("np.load(path, allow_pickle=asked)", 1),
        ("np.load(path, allow_pickle=False)\nnp.load(path)\njson.load(file)\n'pickle'", 0),
    ],
)  # fmt: skip
def test_it_is_seen(code: str, times: int) -> None:
    assert len([*found(code)]) == times


def test_nothing_unpickles() -> None:
    """numpy's own default is to refuse a pickle."""
    listed = subprocess.run(["git", "ls-files", "*.py"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    files = [path for path in map(ROOT.joinpath, listed.split()) if path.exists()]
    assert len(files) > 100
    assert {str(path): lines for path in files if (lines := [*found(path.read_text())])} == {}
