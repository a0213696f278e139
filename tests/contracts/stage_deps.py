"""The stage contract: what dvc.yaml declares of code and packages is what each stage module imports.

    python tests/contracts/stage_deps.py [--write]

The import closure is read from the syntax tree, imports inside functions too, so nothing has to run and a lazy import
counts. Each block of dvc.yaml that calls `python -m flows.stages.NAME` gets the closure's files as deps, and the
versions of the packages that compute as params of packages.yaml, which is taken from requirements.lock. What stands
beside them was written by hand and stays; so do comments. Data that a stage opens is for test_opened_files.py to see.
"""

import argparse
import ast
import difflib
import re
import sys
from collections.abc import Iterator
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path

ROOT = Path(__file__).parents[2]
ROOMS = ("components", "flows")
GENERATED = re.compile(r"\s*- (?:(?:components|flows)/\S+\.py|packages\.yaml: \[.*\])\s*")
CALL = re.compile(r"python -m flows\.stages\.(\w+)")
RUNTIME = "flows.stages.runtime"
HELPERS = ("__init__", "__main__", "equal", "loaders", "runtime", "serving")  # in flows/stages, and no stages

# Code that a stage gets by a templated dep: only the sources that are generated depend on the generator.
GIVEN = {"ingest": "components.data.world"}
# They check, describe or read, and change no output.
NOT_COMPUTING = {"annotated-types", "beartype", "jaxtyping", "ruamel-yaml", "threadpoolctl"}
# What computes under a package that does not pin it.
BELOW = {"scikit-learn": ["scipy"], "onnx": ["onnxscript"]}


def source(module: str, root: Path = ROOT) -> Path | None:
    """The file of a module in this repository; None for a package, whose __init__ is empty, and for everything else."""
    path = root.joinpath(*module.split(".")).with_suffix(".py")
    return path if module.split(".")[0] in ROOMS and path.is_file() else None


@cache
def imports(path: Path) -> frozenset[str]:
    """Every module or `module.name` that a file imports anywhere, but for type checking alone."""
    found: set[str] = set()
    for node in _run_nodes(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                raise SystemExit(f"{path}:{node.lineno}: a relative import: write the whole name, as everywhere")
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return frozenset(found)


def _run_nodes(tree: ast.AST) -> Iterator[ast.AST]:
    for node in ast.iter_child_nodes(tree):
        if not (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)):
            yield node
            yield from _run_nodes(node)


def closure(module: str, root: Path = ROOT) -> tuple[dict[str, Path], set[str]]:
    """The modules of this repository that `module` reaches, with their files, and the names of other top packages."""
    reached: dict[str, Path] = {}
    outside: set[str] = set()
    waiting = {module}
    while waiting:
        name = waiting.pop()
        if (path := source(name, root)) is None and (path := source(name.rpartition(".")[0], root)):
            name = name.rpartition(".")[0]  # `from module import name`
        if path is None:
            outside.add(name.split(".")[0])
        elif name not in reached:
            reached[name] = path
            # the runtime loads torch and numpy to set them up, and only for a stage that imports them itself
            waiting |= {found for found in imports(path) if name != RUNTIME or found.startswith(ROOMS)}
    return reached, outside - set(sys.stdlib_module_names) - set(ROOMS)


def locked(root: Path = ROOT) -> dict[str, str]:
    """requirements.lock: distribution -> version."""
    lines = (root / "requirements.lock").read_text().splitlines()
    pins = [re.match(r"([\w.-]+)(?:\[.*\])?==([^ ;]+)", line) for line in lines]
    return {pin[1]: pin[2] for pin in pins if pin}


def code(stage: str, root: Path = ROOT) -> list[str]:
    """The files that a stage's block has to name."""
    reached, _ = closure(f"flows.stages.{stage}", root)
    given = GIVEN.get(stage, "-")
    return sorted(
        str(path.relative_to(root)) for name, path in reached.items() if not f"{name}.".startswith(f"{given}.")
    )


def packages(stage: str, root: Path = ROOT) -> list[str]:
    """The distributions that compute in a stage."""
    _, outside = closure(f"flows.stages.{stage}", root)
    distributions, versions = _distributions(), locked(root)
    found: set[str] = set()
    for name in outside:
        owners = [owner for owner in distributions.get(name, []) if owner in versions]
        if not owners:
            raise SystemExit(
                f"{stage} imports {name}, which requirements.lock does not hold: pyproject.toml, then make lock"
            )
        found |= {owners[0], *BELOW.get(owners[0], [])}
    return sorted(found - NOT_COMPUTING)


@cache
def _distributions() -> dict[str, list[str]]:
    """Top package -> the distributions that bring it, named as in a lock file."""
    return {
        name: sorted({re.sub(r"[-_.]+", "-", owner).lower() for owner in owners})
        for name, owners in packages_distributions().items()
    }


def stages(root: Path = ROOT) -> list[str]:
    files = (root / "flows" / "stages").glob("*.py")
    return sorted(path.stem for path in files if path.stem not in HELPERS)


def rewrite(text: str, root: Path = ROOT) -> str:
    """dvc.yaml with its generated lines as they have to be. Works on lines, so that everything else stays as it is."""
    head, *blocks = re.split(r"(?m)^(?=  [\w-]+:)", text)
    for index, block in enumerate(blocks):
        if match := CALL.search(block):
            stage = match[1]
            if stage not in stages(root):
                raise SystemExit(
                    f"dvc.yaml calls flows.stages.{stage}, and there is no such module: write it, or drop the block"
                )
            lines = [line for line in block.splitlines(keepends=True) if not GENERATED.fullmatch(line)]
            _append(lines, "deps", code(stage, root))
            if used := packages(stage, root):
                _append(lines, "params", [f"packages.yaml: [{', '.join(used)}]"])
            blocks[index] = "".join(lines)
    return head + "".join(blocks)


def _append(lines: list[str], key: str, items: list[str]) -> None:
    """Add items to the list `key` of a stage's block, after those that it has. The list is made where there is none."""
    indent = next(re.match(" *", line)[0] for line in lines if line.lstrip().startswith("cmd:"))
    start = next((i for i, line in enumerate(lines) if re.match(rf"{indent}{key}:", line)), None)
    if start is None:
        later = re.compile(rf"{indent}(params|outs|metrics|plots):")
        start = next((i for i, line in enumerate(lines) if later.match(line)), len(lines))
        lines.insert(start, "")
    elif "[" in lines[start] and "[]" not in lines[start]:
        raise SystemExit(f"dvc.yaml: {lines[start].strip()}: write this list with one item a line")
    lines[start] = f"{indent}{key}:\n"
    end = start + 1
    while end < len(lines) and lines[end].startswith(f"{indent} "):
        end += 1
    lines[end:end] = [f"{indent}  - {item}\n" for item in items]


def package_versions(root: Path = ROOT) -> str:
    """packages.yaml: the versions of all packages that compute in any stage."""
    versions = locked(root)
    used = sorted({package for stage in stages(root) for package in packages(stage, root)})
    head = (
        "# Generated from requirements.lock by tests/contracts/stage_deps.py: the packages that compute in a stage.\n"
    )
    return head + "".join(f'{name}: "{versions[name]}"\n' for name in used)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help="rewrite dvc.yaml and packages.yaml")
    write = parser.parse_args().write
    stale = 0
    graph = (ROOT / "dvc.yaml").read_text(encoding="utf-8")
    for missing in sorted(set(stages()) - set(CALL.findall(graph))):
        print(
            f"flows/stages/{missing}.py has no block in dvc.yaml: add one that calls `python -m flows.stages.{missing}`"
        )
        stale += 1
    for name, wanted in {"dvc.yaml": rewrite(graph), "packages.yaml": package_versions()}.items():
        path = ROOT / name
        present = path.read_text(encoding="utf-8") if path.exists() else ""
        changes = difflib.unified_diff(present.splitlines(), wanted.splitlines(), name, name, lineterm="", n=0)
        if present == wanted:
            continue
        if write:
            path.write_text(wanted, encoding="utf-8")
        else:
            print("\n".join([*changes, f"{name} is stale: run `python tests/contracts/stage_deps.py --write`"]))
            stale += 1
    sys.exit(1 if stale else 0)


if __name__ == "__main__":
    main()
