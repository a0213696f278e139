"""`python -m flows.stages check`: does the whole params.yaml fit the stages of dvc.yaml? In a second, before a run.

A block with `foreach: ${SECTION}` reads `SECTION.KEY` for each key of that section; any other block reads the section
of its own name. Each is built as the `Params` of the module that the block calls, with its references to others; what
depends on other entries besides is checked by the module's own `check(params, root, key, path)`, where it has one.
"""

import re
import sys
from importlib import import_module
from typing import Any

from flows.params import ParamsError, build, load, nearest

CALL = re.compile(r"python -m flows\.stages\.(\w+)")
SECTION = re.compile(r"\$\{(\w+)\}")


def check(params_path: str = "params.yaml", graph_path: str = "dvc.yaml") -> int:
    """Build every section that a stage reads; the number of them.

    Raises:
        ParamsError: a section is missing, does not fit, or is read by no stage.
    """
    params, graph = load(params_path), load(graph_path)
    claimed: set[str] = set()
    built = 0
    for name, block in graph["stages"].items():
        if not (call := CALL.search(block.get("do", block)["cmd"])):
            continue
        over = SECTION.fullmatch(block["foreach"]) if "foreach" in block else None
        section = over[1] if over else name
        claimed.add(section)
        module = import_module(f"flows.stages.{call[1]}")
        for path in _keys(section, params, params_path) if over else [section]:
            entry = build(path, module.Params, params, params_path)
            if hasattr(module, "check"):
                module.check(entry, params, path.rpartition(".")[2], params_path)
            built += 1
    for section in params:
        if section not in claimed:
            raise ParamsError(f"{params_path}: {section}: no stage reads this section{nearest(str(section), claimed)}")
    return built


def _keys(section: str, params: dict[str, Any], path: str) -> list[str]:
    """SECTION.KEY for every key of a section that a stage runs over."""
    keys = params.get(section)
    if not isinstance(keys, dict):
        raise ParamsError(f"{path}: {section}: must be a mapping, one key a run; write `{section}: {{}}` for none")
    for key in keys:
        if not isinstance(key, str) or not re.fullmatch(r"[\w-]+", key, re.ASCII):
            raise ParamsError(f"{path}: {section}.{key}: a key names files and stages: letters, digits, _ and - only")
    return [f"{section}.{key}" for key in keys]


if __name__ == "__main__":
    if sys.argv[1:] != ["check"]:
        sys.exit("usage: python -m flows.stages check, or python -m flows.stages.NAME [KEY]")
    try:
        print(f"params.yaml fits: {check()} sets of parameters")
    except ParamsError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
