"""Versions are git tags as GTO has them: GTO itself is the oracle, and concurrent registrations are real processes."""

import time
from pathlib import Path

import pytest

from flows.releases import registry
from flows.workspace import Refused
from tests.flows.released import NAME
from tests.flows.tools import commit, git, start


def test_gto_sees_the_same_registry(project: Path) -> None:
    import gto.api

    assert [registry.register(project, NAME, ref) for ref in ("first", "second", "third")] == [
        "v1.0.0",
        "v1.1.0",
        "v1.2.0",
    ]
    for version in ("v1.0.0", "v1.2.0", "v1.1.0"):
        registry.assign(project, NAME, version, "champion")
        time.sleep(1.1)  # GTO orders by whole seconds
    registry.assign(project, NAME, "v1.2.0", "challenger")
    shown = {version["version"]: version for version in gto.api.show(str(project), NAME)}
    for version in registry.versions(project, NAME):
        assert shown[version.version]["commit_hexsha"] == version.commit
    for stage in ("champion", "challenger"):
        (found,) = gto.api.show(str(project), f"{NAME}#{stage}")  # pyright: ignore  # a list, unless table=True
        assert registry.served(project, NAME, stage) == found["version"]
    registry.unassign(project, NAME, "v1.1.0", "champion")
    (found,) = gto.api.show(str(project), f"{NAME}#champion")  # pyright: ignore
    assert registry.served(project, NAME, "champion") == found["version"] == "v1.2.0"
    assert git(project, "tag", "--list", f"{NAME}*").split() == [
        "decoder#challenger#4",
        "decoder#champion!#5",
        "decoder#champion#1",
        "decoder#champion#2",
        "decoder#champion#3",
        "decoder@v1.0.0",
        "decoder@v1.1.0",
        "decoder@v1.2.0",
    ]


def test_registering_a_commit_again_changes_nothing(project: Path) -> None:
    assert registry.register(project, NAME, "second") == registry.register(project, NAME, "second") == "v1.0.0"
    assert [each.version for each in registry.versions(project, NAME)] == ["v1.0.0"]
    registry.assign(project, NAME, "v1.0.0", "champion")
    tags = git(project, "tag")
    registry.assign(project, NAME, "v1.0.0", "champion")
    assert git(project, "tag") == tags


def test_what_follows_within_one_second_keeps_its_order(project: Path) -> None:
    for ref in ("first", "second", "third"):
        registry.register(project, NAME, ref)
    for _ in range(4):  # counters pass 10, where names and numbers sort differently
        for version in ("v1.0.0", "v1.1.0", "v1.2.0"):
            registry.assign(project, NAME, version, "champion")
            assert registry.served(project, NAME, "champion") == version
    assert registry.holders(project, NAME, "champion") == ["v1.0.0", "v1.1.0", "v1.2.0"]


def test_two_processes_register_two_versions_and_none_twice(project: Path) -> None:
    code = "import sys; from pathlib import Path; from flows.releases import registry\n"
    code += f"print(registry.register(Path({str(project)!r}), {NAME!r}, sys.argv[1]))"
    processes = [start("-c", code, ref) for ref in ("first", "second", "first")]
    found = [process.communicate()[0].strip() for process in processes]
    assert found[0] == found[2] and {found[0], found[1]} == {"v1.0.0", "v1.1.0"}


def test_versions_sort_as_numbers_and_tags_of_others_are_left_alone(project: Path) -> None:
    import gto.api

    for number, ref in ((9, "first"), (10, "second")):
        gto.api.register(str(project), NAME, ref, version=f"v1.{number}.0")
    gto.api.register(str(project), "other", "first")
    git(project, "tag", f"{NAME}@v9.0.0", "first")  # a light tag: GTO takes it for nobody's
    git(project, "tag", "-a", "-m", "release", "release-1", "first")
    assert registry.register(project, NAME, "third") == "v1.11.0"
    assert [each.version for each in registry.versions(project, NAME)] == ["v1.9.0", "v1.10.0", "v1.11.0"]
    assert registry.names(project) == [NAME, "other"]


def test_what_cannot_be_a_version_is_refused(project: Path, blank: Path) -> None:
    before = git(project, "tag")
    with pytest.raises(Refused, match=r"dvc\.yaml has no model 'encoder' under `artifacts`: it has decoder, missing"):
        registry.register(project, "encoder", "first")
    with pytest.raises(Refused, match=r"dvc\.lock has no output models/missing for missing: run its stage"):
        registry.register(project, "missing", "first")
    with pytest.raises(Refused, match=r"name '\.\./decoder' is not letters"):
        registry.register(project, "../decoder", "first")
    with pytest.raises(Refused, match="no such commit, branch or tag"):
        registry.register(project, NAME, "nowhere")
    with pytest.raises(Refused, match="no such commit, branch or tag"):
        registry.register(project, NAME, "--all")
    with pytest.raises(Refused, match=r"holds no dvc\.lock: `dvc repro`, and commit"):
        registry.register(blank, NAME, "HEAD")
    with pytest.raises(Refused, match=r"no version decoder@v7\.0\.0: known names are none"):
        registry.assign(project, NAME, "v7.0.0", "champion")
    assert git(project, "tag") == before


@pytest.mark.parametrize(
    "text", ["stages: [", "just text", "stages:\n  train: 3\n", "stages:\n  a: {outs: [{md5: x}]}\n"]
)
def test_a_damaged_dvc_lock_is_one_clear_error(project: Path, text: str) -> None:
    (project / "dvc.lock").write_text(text)
    commit(project)
    with pytest.raises(Refused, match=r"^commit [0-9a-f]{12}: .*dvc\.lock"):
        registry.register(project, NAME)
