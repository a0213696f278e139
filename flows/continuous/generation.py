"""One retraining of a model as a branch: a clone in which new data, their mixture with old ones, and the champion are
inputs of the one graph, by parameters and .dvc files that the branch commits.

The key is a hash of the new data's content and the settings: the same data, triggered twice, are one generation. All
that is written depends on the key and on where the branch began; what is there already is left, so that a killed run
goes on. New data and champion lie under pinned/: the former added to DVC, the latter named by the hash under which the
champion's commit made it.
"""

import hashlib
import json
import re
import shutil
import subprocess
import sys
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.data.config import Kind, Source
from components.data.sources import FIELDS
from flows.continuous.merge import fast_forward, merged
from flows.continuous.settings import Settings
from flows.params import build, load
from flows.releases import recorded, registry
from flows.releases.materialise import Objects
from flows.workspace import Refused, branch_workspace, check_parameters, git, read_yaml, write_yaml

PINNED = "pinned"
MEDIA = {"image": "png|jpg|jpeg|webp", "sound": "wav|flac|ogg|sound"}  # the files of mixed records (mixture.py)
WORLD = {  # what the records of the generated world hold (components/data/world/views.py)
    "pictures": ("image", "text", "text_ja", "label", "changed"),
    "text": ("text", "language", "label"),
    "speech": ("sound", "text", "voice", "label"),
}


@dataclass(frozen=True)
class Generation:
    """One retraining of a name."""

    root: Path  # the checkout whose model it is
    name: str
    key: str  # 12 hex digits

    @classmethod
    def of(cls, root: Path, name: str, state: str, settings: Settings) -> "Generation":
        """The generation of a state of new data (incoming.py)."""
        content = json.dumps([name, state, settings.entry], sort_keys=True)
        return cls(root, name, hashlib.sha256(content.encode()).hexdigest()[:12])

    @property
    def folder(self) -> Path:
        return self.root / "runs" / "continuous" / f"{self.name}-{self.key}"

    @property
    def branch(self) -> str:
        return f"ct/{self.key}"

    @property
    def new(self) -> str:
        """The source of the new data; their mixture is under the same key, and a source of its own."""
        return f"{self.name}_{self.key}"

    @property
    def mixed(self) -> str:
        return f"{self.new}_mixed"

    @property
    def champion(self) -> str:
        return f"{self.name}_champion"

    @property
    def experiment(self) -> str:
        return f"{self.name}-{self.key}"


def prepare(generation: Generation, settings: Settings, data: Path) -> None:
    """Make the clone and commit what this generation reads and computes; nothing where it is committed.

    Args:
        data: a folder with the new data, as incoming.take() left it.

    Raises:
        Refused: the name has no champion, or parameters that the stages do not take.
    """
    folder = generation.folder
    branch_workspace(generation.root, folder, settings.main, generation.branch)
    if git(folder, "ls-tree", "--name-only", "HEAD", f"{PINNED}/{generation.new}.dvc").strip():
        return
    (folder / PINNED).mkdir(exist_ok=True)
    (folder / PINNED / ".gitignore").write_text("*\n!*.dvc\n!.gitignore\n")
    classes = _pin_champion(generation)
    _pin_data(generation, data)
    params = read_yaml(folder / "params.yaml")
    _add(params, generation, settings, classes)
    write_yaml(folder / "params.yaml", params)
    check_parameters(folder)
    commit(folder, f"Take new data in for {generation.name}, and mix them with the old ({generation.key})")


def commit(folder: Path, message: str) -> None:
    """Commit what the branch is to hold, where it has changed."""
    git(folder, "add", "--", "params.yaml", PINNED, *(["dvc.lock"] if (folder / "dvc.lock").exists() else []))
    if git(folder, "diff", "--cached", "--name-only").strip():
        git(folder, "commit", "-q", "-m", message)


def publish(generation: Generation) -> str:
    """Commit dvc.lock, bring the branch into the checkout, and register its commit; the version.

    The commit, the branch and its tag go on to the checkout's own origin, where it has one. Safe to repeat.

    Raises:
        Refused: the origin took nothing; what is there goes there when this is done again.
    """
    commit(generation.folder, f"Retrain {generation.name} on new data ({generation.key})")
    root, branch = generation.root, generation.branch
    git(root, "fetch", "-q", str(generation.folder), f"+{branch}:{branch}")
    version = registry.register(root, generation.name, branch)
    if "origin" in git(root, "remote").split():
        git(root, "push", "-q", "origin", branch, f"refs/tags/{generation.name}@{version}")
    return version


def prune(generation: Generation) -> None:
    """Remove the clones of other generations of this name: what they made is in the cache, and on their branches."""
    for other in generation.folder.parent.iterdir():
        if re.fullmatch(f"{re.escape(generation.name)}-[0-9a-f]{{12}}", other.name) and other != generation.folder:
            shutil.rmtree(other)


def advance(generation: Generation, main: str) -> None:
    """Have main hold what was promoted, in the checkout and its origin; a merge where main has gone on meanwhile.

    Raises:
        Refused: the two do not merge, or the checkout has uncommitted changes in the way: the champion serves already,
            and this can be done again.
    """
    root, branch = generation.root, generation.branch
    if not _holds(root, main, branch):
        target = branch
        if not _holds(root, branch, main):
            target = merged(root, main, branch, f"Promote {generation.name} ({generation.key})")
        if git(root, "branch", "--show-current").strip() == main:
            fast_forward(root, target)
        else:
            git(root, "update-ref", f"refs/heads/{main}", target)
    if "origin" in git(root, "remote").split():
        git(root, "push", "-q", "origin", main)


def _holds(root: Path, branch: str, other: str) -> bool:
    """Whether a branch has all commits of another one."""
    return not git(root, "rev-list", "-n", "1", f"{branch}..{other}").strip()


def _pin_champion(generation: Generation) -> list[str]:
    """Write the .dvc file of the champion's folder; the classes that it knows (none if it is no classifier)."""
    root, name = generation.root, generation.name
    version = registry.served(root, name, "champion")
    if version is None:
        raise Refused(f"{name} has no champion to be compared with: `tsumugi deploy {name} VERSION` first")
    path, digest = registry.model(recorded.read(root, registry.commit_of(root, name, version)), name)
    entry = {"outs": [{"md5": digest, "hash": "md5", "path": generation.champion}]}
    write_yaml(generation.folder / PINNED / f"{generation.champion}.dvc", entry)
    with closing(Objects(generation.folder, print)) as objects:
        files = objects.listing(path, digest)
        if "config.json" not in files:
            return []
        return list(json.loads(objects.content("config.json", files["config.json"])).get("classes") or [])


def _pin_data(generation: Generation, data: Path) -> None:
    target = generation.folder / PINNED / generation.new
    if not Path(f"{target}.dvc").exists():
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(data, target)
        done = subprocess.run(
            [sys.executable, "-m", "dvc", "add", "-q", str(target.relative_to(generation.folder))],
            cwd=generation.folder,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise Refused(f"dvc add {target} failed: {' '.join(done.stderr.split())}")


def _add(params: Any, generation: Generation, settings: Settings, classes: list[str]) -> None:
    """This generation's sources, mixture, drift and comparison, and the mixture as what is trained on."""
    stage, run = settings.train.split(".")
    try:
        trained = params[stage][run]
        artifact = read_yaml(generation.folder / "dvc.yaml")["artifacts"][generation.name]["path"]
    except (KeyError, TypeError):
        raise Refused(
            f"continuous.yaml: {generation.name}: params.yaml has no {settings.train}, or dvc.yaml no model "
            f"{generation.name} under `artifacts`"
        ) from None
    old, new, mixed = str(trained["source"]), generation.new, generation.mixed
    source = {**settings.entry["source"], "path": f"{PINNED}/{new}"}
    labels = list(settings.source.classes) or classes
    known = {"classes": labels} if labels and "label" in _fields(settings.source) else {}
    params["sources"][new] = source | known
    before = build(f"sources.{old}", Source, load(str(generation.folder / "params.yaml")))
    both = [name for name in _fields(settings.source) if name in _fields(before) and (name != "label" or classes)]
    params["sources"][mixed] = _mixed_source(settings.source.kind, both, f"data/mixed/{new}") | (
        known if "label" in both else {}
    )
    machine = {key: trained[key] for key in ("threads", "device")}
    params["mix"][new] = {"old": old, "new": new, "replay": settings.replay}
    pinned = f"{PINNED}/{generation.champion}"
    params["drift"][generation.name] = {"reference": old, "new": new, "model": pinned, **machine, **settings.drift}
    params["compare"][generation.name] = {
        "champion": pinned,
        "challenger": artifact,
        "frozen": old,
        "fresh": new,
        **machine,
        **settings.compare,
    }
    trained["source"] = mixed


def _fields(source: Source) -> tuple[str, ...]:
    """What every record of a source holds."""
    return WORLD[source.world.view] if source.world else tuple(FIELDS.get(source.layout) or source.fields)


def _mixed_source(kind: Kind, both: list[str], path: str) -> dict[str, Any]:
    """both: what the records of both sets hold, for one that lacks a field is a bad one; labels only where the model
    knows classes, since a replay may lose all that train has of one."""
    names = [*(name for name in both if name != kind), "origin"]
    splits = {split: f"{split}/*" for split in ("train", "valid", "test")}
    if kind == "text":
        fields = {name: name for name in ["text", *names]}
        return {"layout": "jsonl", "path": path, "splits": splits, "fields": fields}
    fields = {kind: MEDIA[kind]} | {name: f"json.{name}" for name in names}
    return {"layout": "tar", "path": path, "splits": splits, "fields": fields}
