"""The generator of code deps and package versions, on a small repository whose imports are known, and on this one."""

from pathlib import Path

import pytest
from ruamel.yaml import YAML

from tests.contracts import stage_deps

FILES = {
    "flows/params.py": "import ruamel.yaml",
    "flows/stages/runtime.py": "from flows.params import read\ndef prepare():\n    import torch",
    "flows/stages/count.py": "from flows.stages.runtime import start\nimport json",
    "flows/stages/train.py": (
        "from typing import TYPE_CHECKING\n"
        "from components.config import Config\n"
        "from flows.stages.runtime import start\n"
        "if TYPE_CHECKING:\n    import timm\n    from components.other import nothing\n"
        "def run():\n    import components.model\n    from components.heads import linear\n"
    ),
    "components/config.py": "import annotated_types",
    "components/model.py": "import torch.nn.functional as F\nfrom PIL import Image\nfrom components import norm",
    "components/norm.py": "from sklearn.decomposition import PCA",
    "components/heads/linear.py": "import components.model",
    "components/heads/unused.py": "",
    "components/other.py": "",
    "requirements.lock": (
        "torch==2.11.0 \\\n    --hash=sha256:00\npillow==13.0\nscikit-learn==1.9\nscipy==1.17\n"
        "ruamel-yaml==0.18\nannotated-types==0.7\n"
    ),
}
GRAPH = """\
# The graph
stages:
  count:  # simple
    cmd: python -m flows.stages.count
    deps: []
    outs:
      - counts
  # many
  train:
    foreach: ${train}
    do:
      cmd: python -m flows.stages.train ${key}
      deps:
        - data/${item.source}  # by hand
        - components/gone.py
      params:
        - train.${key}
        - packages.yaml: [gone]
      outs:
        - models/train/${key}

  other:
    cmd: echo
    deps:
      - components/other.py
"""
WRITTEN = """\
# The graph
stages:
  count:  # simple
    cmd: python -m flows.stages.count
    deps:
      - flows/params.py
      - flows/stages/count.py
      - flows/stages/runtime.py
    outs:
      - counts
  # many
  train:
    foreach: ${train}
    do:
      cmd: python -m flows.stages.train ${key}
      deps:
        - data/${item.source}  # by hand
        - components/config.py
        - components/heads/linear.py
        - components/model.py
        - components/norm.py
        - flows/params.py
        - flows/stages/runtime.py
        - flows/stages/train.py
      params:
        - train.${key}
        - packages.yaml: [pillow, scikit-learn, scipy, torch]
      outs:
        - models/train/${key}

  other:
    cmd: echo
    deps:
      - components/other.py
"""


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


def test_deps_are_the_import_closure_and_all_else_stays(repository: Path) -> None:
    assert stage_deps.rewrite(GRAPH, repository) == WRITTEN
    assert stage_deps.rewrite(WRITTEN, repository) == WRITTEN


def test_packages_that_compute_have_their_locked_versions(repository: Path) -> None:
    written = YAML(typ="safe").load(stage_deps.package_versions(repository))
    assert written == {"pillow": "13.0", "scikit-learn": "1.9", "scipy": "1.17", "torch": "2.11.0"}


def test_an_import_that_the_lock_does_not_hold_is_refused(repository: Path) -> None:
    (repository / "components/norm.py").write_text("import pandas")
    with pytest.raises(SystemExit, match="train imports pandas, which requirements.lock does not hold"):
        stage_deps.rewrite(GRAPH, repository)


def test_a_block_without_its_module_is_refused(repository: Path) -> None:
    (repository / "flows/stages/count.py").unlink()
    with pytest.raises(SystemExit, match=r"dvc.yaml calls flows.stages.count, and there is no such module"):
        stage_deps.rewrite(GRAPH, repository)


def test_the_graph_of_this_repository_is_what_its_stages_import() -> None:
    graph = (stage_deps.ROOT / "dvc.yaml").read_text(encoding="utf-8")
    assert stage_deps.rewrite(graph) == graph
    assert stage_deps.package_versions() == (stage_deps.ROOT / "packages.yaml").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("part", "reached", "spared"),
    [
        (
            "components.encoders.speech",
            {"train_speech"},
            {"train_image", "train_clip", "train_decoder", "finetune_text"},
        ),
        (
            "components.encoders.image",
            {"train_image", "train_clip"},
            {"train_speech", "train_decoder", "finetune_text"},
        ),
        ("components.decoders.causal", {"train_decoder"}, {"train_image", "train_speech", "train_clip"}),
        ("components.data.world.draw", set(), {"ingest", "validate", "train_image"}),
    ],
)
def test_editing_a_part_reruns_only_what_it_belongs_to(part: str, reached: set[str], spared: set[str]) -> None:
    path = f"{part.replace('.', '/')}.py"
    uses = {stage for stage in stage_deps.stages() if path in stage_deps.code(stage)}
    assert reached <= uses
    assert not spared & uses
