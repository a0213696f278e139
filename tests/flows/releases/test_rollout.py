"""Deploying and rolling back: whatever is killed or refused in between, doing it again ends where it should, and the
pointer always names a version whose files verify."""

import json
import shutil
from pathlib import Path

import pytest

from components.inference import pointer
from flows.releases import registry, rollout
from flows.workspace import Refused
from tests.flows.released import NAME
from tests.flows.tools import git, start


@pytest.fixture
def versioned(project: Path) -> Path:
    for ref in ("first", "second", "third"):
        registry.register(project, NAME, ref)
    return project


@pytest.fixture
def serving(tmp_path: Path) -> Path:
    return tmp_path / "serving"


def now(serving: Path) -> tuple[str, str | None, int]:
    """Champion, challenger and serial, as a server reads them; every file verified."""
    found = pointer.read(serving / f"{NAME}.json")
    for version in filter(None, (found.champion, found.challenger)):
        pointer.verify(version)
    return found.champion.version, found.challenger and found.challenger.version, found.serial


def test_promotions_and_rollbacks_walk_a_stack(versioned: Path, serving: Path) -> None:
    for serial, version in enumerate(("v1.0.0", "v1.1.0", "v1.2.0"), 1):
        rollout.deploy(versioned, serving, NAME, version)
        assert now(serving) == (version, None, serial)
    rollout.rollback(versioned, serving, NAME)
    assert now(serving) == ("v1.1.0", None, 4)
    rollout.rollback(versioned, serving, NAME)  # not to v1.2.0, which was taken back
    assert now(serving) == ("v1.0.0", None, 5)
    with pytest.raises(Refused, match=r"decoder@v1\.0\.0 has no champion before it"):
        rollout.rollback(versioned, serving, NAME)
    assert now(serving) == ("v1.0.0", None, 5)
    assert registry.served(versioned, NAME, "champion") == "v1.0.0"


def test_the_same_deployment_again_changes_nothing(versioned: Path, serving: Path) -> None:
    rollout.deploy(versioned, serving, NAME, "v1.0.0")
    before, tags = (serving / f"{NAME}.json").stat(), git(versioned, "tag")
    rollout.deploy(versioned, serving, NAME, "v1.0.0")
    after = (serving / f"{NAME}.json").stat()
    assert (before.st_ino, before.st_mtime_ns, tags) == (after.st_ino, after.st_mtime_ns, git(versioned, "tag"))


def test_the_origin_has_every_tag_and_need_not_be_there(
    versioned: Path, serving: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """What did not reach it goes there with the next move."""
    git(versioned, "remote", "add", "origin", str(tmp_path / "origin.git"))
    rollout.deploy(versioned, serving, NAME, "v1.0.0")
    assert now(serving) == ("v1.0.0", None, 1)
    assert "the tags of decoder are here alone until the next one" in caplog.text
    git(tmp_path, "init", "-q", "--bare", "origin.git")
    rollout.deploy(versioned, serving, NAME, "v1.1.0")
    rollout.challenge(versioned, serving, NAME, "v1.2.0", 0.5, "canary", "e1")
    rollout.rollback(versioned, serving, NAME)
    ours = [tag for tag in git(versioned, "tag").split() if tag.startswith(NAME)]
    assert git(tmp_path / "origin.git", "tag").split() == ours
    assert {"decoder#champion#1", "decoder#champion!#3", "decoder#challenger!#4"} & set(ours)


def test_a_trial_beside_the_champion(versioned: Path, serving: Path) -> None:
    rollout.deploy(versioned, serving, NAME, "v1.0.0")
    rollout.challenge(versioned, serving, NAME, "v1.1.0", 0.1, "canary", "e1")
    assert now(serving) == ("v1.0.0", "v1.1.0", 2)
    assert json.loads((serving / f"{NAME}.json").read_text())["challenger"]["share"] == 0.1
    assert registry.served(versioned, NAME, "challenger") == "v1.1.0"
    rollout.challenge(versioned, serving, NAME, "v1.1.0", 0.5, "canary", "e1")  # a larger share
    assert now(serving) == ("v1.0.0", "v1.1.0", 3)
    rollout.withdraw(versioned, serving, NAME)
    assert now(serving) == ("v1.0.0", None, 4)
    assert registry.served(versioned, NAME, "challenger") is None
    rollout.challenge(versioned, serving, NAME, "v1.0.0", 0.5, "shadow", "a-a")  # an A/A trial
    assert now(serving) == ("v1.0.0", "v1.0.0", 5)


def test_a_promotion_ends_the_trial(versioned: Path, serving: Path) -> None:
    rollout.deploy(versioned, serving, NAME, "v1.0.0")
    rollout.challenge(versioned, serving, NAME, "v1.1.0", 0.1, "canary", "e1")
    rollout.deploy(versioned, serving, NAME, "v1.1.0")
    assert now(serving) == ("v1.1.0", None, 3)
    stages = {each.version: each.stages for each in registry.versions(versioned, NAME)}
    assert stages == {"v1.0.0": (), "v1.1.0": ("champion",), "v1.2.0": ()}


def test_what_cannot_be_deployed_leaves_the_champion(versioned: Path, serving: Path) -> None:
    with pytest.raises(Refused, match="there is no pointer of decoder that reads: `tsumugi deploy decoder VERSION`"):
        rollout.challenge(versioned, serving, NAME, "v1.0.0", 0.1, "canary", "e1")
    rollout.deploy(versioned, serving, NAME, "v1.0.0")
    tags = git(versioned, "tag")
    shutil.rmtree(versioned / ".dvc" / "cache")
    for version, reason in (("v1.1.0", "is not in the DVC cache"), ("v9.0.0", r"no version decoder@v9\.0\.0: its")):
        with pytest.raises(Refused, match=reason):
            rollout.deploy(versioned, serving, NAME, version)
    with pytest.raises(Refused, match=r"share 1\.5 is not between 0 and 1"):
        rollout.challenge(versioned, serving, NAME, "v1.0.0", 1.5, "canary", "e1")
    assert now(serving) == ("v1.0.0", None, 1)
    assert git(versioned, "tag") == tags


def test_rolling_back_needs_neither_cache_nor_remote(versioned: Path, serving: Path) -> None:
    for version in ("v1.0.0", "v1.1.0"):
        rollout.deploy(versioned, serving, NAME, version)
    shutil.rmtree(versioned / ".dvc" / "cache")
    rollout.rollback(versioned, serving, NAME)
    assert now(serving) == ("v1.0.0", None, 3)


def test_a_rollback_to_files_that_are_gone_is_refused(versioned: Path, serving: Path) -> None:
    for version in ("v1.0.0", "v1.1.0"):
        rollout.deploy(versioned, serving, NAME, version)
    shutil.rmtree(versioned / ".dvc" / "cache")
    (serving / "versions" / NAME / "v1.0.0" / "model.safetensors").write_bytes(b"")
    with pytest.raises(Refused, match="is not in the DVC cache"):
        rollout.rollback(versioned, serving, NAME)
    assert now(serving) == ("v1.1.0", None, 2)
    assert registry.served(versioned, NAME, "champion") == "v1.1.0"


def killed(versioned: Path, serving: Path, call: str) -> None:
    """A process that dies after the tags were set and before the pointer is written."""
    code = f"""
import os, signal
from pathlib import Path
from flows.releases import rollout
rollout.pointer.write = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
repo, serving, name = Path({str(versioned)!r}), Path({str(serving)!r}), {NAME!r}
rollout.{call}
"""
    process = start("-c", code)
    assert (process.communicate()[0], process.returncode) == ("", -9)


def test_a_killed_deployment_is_mended_by_doing_it_again(versioned: Path, serving: Path) -> None:
    rollout.deploy(versioned, serving, NAME, "v1.0.0")
    killed(versioned, serving, "deploy(repo, serving, name, 'v1.1.0')")
    assert now(serving) == ("v1.0.0", None, 1)
    rollout.deploy(versioned, serving, NAME, "v1.1.0")
    assert now(serving) == ("v1.1.0", None, 2)
    assert registry.holders(versioned, NAME, "champion") == ["v1.0.0", "v1.1.0"]


def test_a_killed_rollback_goes_back_one_step_and_not_two(versioned: Path, serving: Path) -> None:
    for version in ("v1.0.0", "v1.1.0", "v1.2.0"):
        rollout.deploy(versioned, serving, NAME, version)
    killed(versioned, serving, "rollback(repo, serving, name)")
    assert now(serving) == ("v1.2.0", None, 3)
    rollout.rollback(versioned, serving, NAME)
    assert now(serving) == ("v1.1.0", None, 4)


def test_a_rollback_after_a_killed_deployment_goes_below_what_is_served(versioned: Path, serving: Path) -> None:
    for version in ("v1.0.0", "v1.1.0"):
        rollout.deploy(versioned, serving, NAME, version)
    killed(versioned, serving, "deploy(repo, serving, name, 'v1.2.0')")
    rollout.rollback(versioned, serving, NAME)
    assert now(serving) == ("v1.0.0", None, 3)
    assert registry.holders(versioned, NAME, "champion") == ["v1.0.0"]


def test_a_damaged_pointer_is_replaced_by_a_deployment_with_a_higher_serial(versioned: Path, serving: Path) -> None:
    for version in ("v1.0.0", "v1.1.0"):
        rollout.deploy(versioned, serving, NAME, version)
    (serving / f"{NAME}.json").write_text('{"name": "dec')
    with pytest.raises(Refused, match="there is no pointer of decoder that reads"):
        rollout.rollback(versioned, serving, NAME)
    rollout.deploy(versioned, serving, NAME, "v1.2.0")
    version, _, serial = now(serving)
    assert version == "v1.2.0" and serial > 2


def test_deployments_at_once_take_turns(versioned: Path, serving: Path) -> None:
    """Each of four processes moves the pointer once: four serial numbers, and the last tag is what is served."""
    code = f"""
import sys
from pathlib import Path
from flows.releases import rollout
repo, serving = Path({str(versioned)!r}), Path({str(serving)!r})
print(rollout.deploy(repo, serving, {NAME!r}, sys.argv[1]).serial)
"""
    rollout.deploy(versioned, serving, NAME, "v1.0.0")
    processes = [start("-c", code, version) for version in ("v1.1.0", "v1.2.0")]
    assert sorted(process.communicate()[0].strip() for process in processes) == ["2", "3"]
    assert now(serving)[0] == registry.served(versioned, NAME, "champion")
