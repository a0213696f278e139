"""A version's files come by hash, whole or not at all: from a cache or a remote, beside other processes, after a kill,
with a damaged object, and without room on the disk. The model as its stage wrote it is the oracle."""

import hashlib
import json
import os
import shutil
from pathlib import Path

import pytest
import yaml

from components.inference import pointer
from flows.releases import registry
from flows.releases.materialise import materialise
from flows.workspace import Refused
from tests.flows.released import MODEL, NAME, contents, set_remote, trained
from tests.flows.tools import commit, git, start


@pytest.fixture
def versioned(project: Path) -> Path:
    """`first` is v1.0.0, `third` is v1.1.0; the work tree is at `third`."""
    for ref in ("first", "third"):
        registry.register(project, NAME, ref)
    return project


def bring(repo: Path, version: str, serving: Path) -> pointer.Version:
    return materialise(repo, NAME, version, serving, lambda line: None)


def served(folder: Path) -> dict[str, bytes]:
    return {name: content for name, content in contents(folder).items() if name != "manifest.json"}


def child(repo: Path, serving: Path, before: str = "") -> list[str]:
    """Arguments of a process that brings v1.0.0."""
    call = f"materialise(Path({str(repo)!r}), {NAME!r}, 'v1.0.0', Path({str(serving)!r}), lambda line: None)"
    return [
        "-c",
        "import os, resource, signal\nfrom pathlib import Path\n"
        f"from flows.releases.materialise import *\n{before}\n{call}",
    ]


def object_path(repo: Path, digest: str) -> Path:
    return repo / ".dvc" / "cache" / "files" / "md5" / digest[:2] / digest[2:]


def weights(repo: Path) -> Path:
    """The cache's object of the first model's weights."""
    return object_path(repo, hashlib.md5(trained(repo, "first")["model.safetensors"]).hexdigest())


def add_remote(repo: Path, remote: Path) -> None:
    from dvc.repo import Repo

    set_remote(repo, url=str(remote))
    with Repo(str(repo)) as dvc:
        dvc.push(all_commits=True)


def test_files_of_an_older_version_without_touching_the_work_tree(versioned: Path, tmp_path: Path) -> None:
    (versioned / MODEL / "config.json").write_text("a person's edit")
    before, status = contents(versioned / MODEL), git(versioned, "status", "--porcelain")
    version = bring(versioned, "v1.0.0", tmp_path / "serving")
    assert version.folder == tmp_path / "serving" / "versions" / NAME / "v1.0.0"
    assert served(version.folder) == trained(versioned, "first")
    assert version.files == {
        name: hashlib.sha256(content).hexdigest() for name, content in trained(versioned, "first").items()
    }
    assert version.commit == git(versioned, "rev-parse", "first").strip()
    assert (contents(versioned / MODEL), git(versioned, "status", "--porcelain")) == (before, status)


def test_the_manifest_tells_where_it_comes_from(versioned: Path, tmp_path: Path) -> None:
    folder = bring(versioned, "v1.0.0", tmp_path).folder
    manifest = json.loads((folder / "manifest.json").read_text())
    content = trained(versioned, "first")["config.json"]
    assert manifest["files"]["config.json"] == {
        "sha256": hashlib.sha256(content).hexdigest(),
        "md5": hashlib.md5(content).hexdigest(),
        "size": len(content),
    }
    kept = {key: manifest[key] for key in ("name", "version", "stage", "params", "metrics")}
    assert kept == {
        "name": NAME,
        "version": "v1.0.0",
        "stage": "train",
        "params": {"train": {"rate": 0.1}, "packages.yaml: torch": "2.11"},
        "metrics": {"loss": 0.1},
    }


def test_again_is_the_same_and_reads_no_cache(versioned: Path, tmp_path: Path) -> None:
    first = bring(versioned, "v1.0.0", tmp_path)
    inode = (first.folder / "model.safetensors").stat().st_ino
    shutil.rmtree(versioned / ".dvc" / "cache")
    assert bring(versioned, "v1.0.0", tmp_path) == first
    assert (first.folder / "model.safetensors").stat().st_ino == inode


@pytest.mark.parametrize("file", ["model.safetensors", "manifest.json"])
def test_what_was_damaged_in_the_serving_folder_is_replaced(versioned: Path, tmp_path: Path, file: str) -> None:
    first = bring(versioned, "v1.0.0", tmp_path)
    with (first.folder / file).open("r+b") as opened:
        opened.truncate(100)
    assert bring(versioned, "v1.0.0", tmp_path) == first
    assert served(first.folder) == trained(versioned, "first")
    assert sorted(path.name for path in first.folder.parent.iterdir()) == [".lock", "v1.0.0"]


def test_two_at_once_make_one(versioned: Path, tmp_path: Path) -> None:
    processes = [start(*child(versioned, tmp_path)) for _ in range(2)]
    assert [process.communicate()[0] for process in processes] == [""] * 2
    assert served(tmp_path / "versions" / NAME / "v1.0.0") == trained(versioned, "first")


@pytest.mark.parametrize("sync", [1, 4, 6])
def test_a_kill_at_any_sync_leaves_all_or_nothing(versioned: Path, tmp_path: Path, sync: int) -> None:
    """Files are synced one by one, then the manifest, then the folders."""
    kill = f"left = iter(range({sync}, 0, -1))\nsync = os.fsync\n"
    kill += "os.fsync = lambda file: os.kill(os.getpid(), signal.SIGKILL) if next(left, 0) == 1 else sync(file)"
    killed = start(*child(versioned, tmp_path, kill))
    assert (killed.communicate()[0], killed.returncode) == ("", -9)
    target = tmp_path / "versions" / NAME / "v1.0.0"
    if target.exists():
        assert served(target) == trained(versioned, "first")
    assert served(bring(versioned, "v1.0.0", tmp_path).folder) == trained(versioned, "first")
    assert sorted(path.name for path in target.parent.iterdir()) == [".lock", "v1.0.0"]


@pytest.mark.parametrize(("size", "reason"), [(1_000_000, "File too large"), (1_000, "disk I/O error")])
def test_no_room_on_the_disk_leaves_nothing(versioned: Path, tmp_path: Path, size: int, reason: str) -> None:
    """A process that may write no larger file: the weights have 1,280,000 bytes, DVC's index a tenth."""
    full = start(*child(versioned, tmp_path, f"resource.setrlimit(resource.RLIMIT_FSIZE, ({size}, {size}))"))
    said = full.communicate()[0].splitlines()[-1].removeprefix("flows.workspace.Refused: ")
    assert said.startswith(f"{tmp_path}/versions/{NAME}/v1.0.0 was not written: {reason}: free space or mend")
    assert [path.name for path in (tmp_path / "versions" / NAME).iterdir()] == [".lock"]


def test_a_damaged_cache_is_mended_from_the_remote(versioned: Path, tmp_path: Path) -> None:
    add_remote(versioned, tmp_path / "remote")
    damaged = weights(versioned)
    damaged.chmod(0o644)
    damaged.write_bytes(b"other bytes")
    assert served(bring(versioned, "v1.0.0", tmp_path).folder) == trained(versioned, "first")
    assert damaged.read_bytes() == trained(versioned, "first")["model.safetensors"]


def test_damage_everywhere_is_refused_with_both_hashes(versioned: Path, tmp_path: Path) -> None:
    add_remote(versioned, tmp_path / "remote")
    expected = hashlib.md5(trained(versioned, "first")["model.safetensors"]).hexdigest()
    for path in (weights(versioned), tmp_path / "remote" / "files" / "md5" / expected[:2] / expected[2:]):
        path.chmod(0o644)
        path.write_bytes(b"other bytes")
    found = hashlib.md5(b"other bytes").hexdigest()
    with pytest.raises(Refused, match=rf"model\.safetensors is damaged: dvc\.lock has MD5 {expected}, found {found}"):
        bring(versioned, "v1.0.0", tmp_path / "serving")
    assert [path.name for path in (tmp_path / "serving" / "versions" / NAME).iterdir()] == [".lock"]


def test_what_is_nowhere_says_where_it_was_looked_for(versioned: Path, tmp_path: Path) -> None:
    weights(versioned).unlink()
    with pytest.raises(Refused, match=r"is not in the DVC cache and there is no default remote: `dvc push` where"):
        bring(versioned, "v1.0.0", tmp_path / "serving")
    add_remote(versioned, tmp_path / "remote")
    with pytest.raises(Refused, match=r"is not in the DVC cache nor on the remote store: `dvc push` where it was made"):
        bring(versioned, "v1.0.0", tmp_path / "serving")


def test_a_file_name_that_leads_outside_is_refused(versioned: Path, tmp_path: Path) -> None:
    """Whoever can write dvc.lock and the remote must not be able to write elsewhere on the server."""
    listing = json.dumps([{"md5": hashlib.md5(b"evil").hexdigest(), "relpath": "../../../evil"}]).encode()
    digest = hashlib.md5(listing).hexdigest() + ".dir"
    for name, content in ((digest, listing), (hashlib.md5(b"evil").hexdigest(), b"evil")):
        object_path(versioned, name).parent.mkdir(parents=True, exist_ok=True)
        object_path(versioned, name).write_bytes(content)
    lock = (versioned / "dvc.lock").read_text()
    (own,) = (out["md5"] for out in yaml.safe_load(lock)["stages"]["train"]["outs"] if out["path"] == MODEL)
    (versioned / "dvc.lock").write_text(lock.replace(own, digest))
    commit(versioned)
    version = registry.register(versioned, NAME)
    with pytest.raises(Refused, match=r"'\.\./\.\./\.\./evil' cannot be the name of a served file"):
        bring(versioned, version, tmp_path / "serving")
    assert "evil" not in {name.rpartition(os.sep)[2] for name in contents(tmp_path / "serving")}
