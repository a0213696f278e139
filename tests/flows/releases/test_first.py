"""What a checkout has made is deployed without a commit of the person's: branch, index and files stay as they are."""

from pathlib import Path

import pytest

from components.inference import pointer
from flows.releases import first, recorded, registry
from flows.releases.materialise import materialise
from flows.workspace import Refused
from tests.flows.released import MODEL, NAME, contents, set_remote
from tests.flows.tools import git, repro


def test_what_dvc_lock_names_is_deployed_and_nothing_of_the_persons_moves(project: Path, tmp_path: Path) -> None:
    (project / "params.yaml").write_text((project / "params.yaml").read_text().replace("rate: 0.", "rate: 0.7"))
    repro(project)
    before = git(project, "status", "--porcelain"), git(project, "rev-parse", "HEAD")
    (deployed,) = first.deploy(project, tmp_path)
    assert (git(project, "status", "--porcelain"), git(project, "rev-parse", "HEAD")) == before
    assert deployed.name == NAME
    pointer.verify(deployed.champion)
    for file in ("model.safetensors", "config.json"):
        assert (deployed.champion.folder / file).read_bytes() == (project / MODEL / file).read_bytes()
    found = recorded.read(project, deployed.champion.commit)
    assert found.subject == "What this checkout has made"
    assert git(project, "show", f"{deployed.champion.commit}:params.yaml") == (project / "params.yaml").read_text()
    assert git(project, "rev-parse", f"{deployed.champion.commit}^").strip() == before[1].strip()


def test_a_commit_that_holds_all_is_itself_the_version(project: Path) -> None:
    assert first.snapshot(project) == git(project, "rev-parse", "HEAD").strip()


def test_what_is_made_later_is_deployed_beside_what_is_served(project: Path, tmp_path: Path) -> None:
    """A model that has a pointer is left as it is; the one that has none follows, as the version of the same commit."""
    first.deploy(project, tmp_path)
    served = (tmp_path / f"{NAME}.json").read_bytes()
    assert first.deploy(project, tmp_path) == []
    path = project / "dvc.yaml"
    path.write_text(path.read_text().replace("missing: {path: models/missing}", f"later: {{path: {MODEL}}}"))
    (later,) = first.deploy(project, tmp_path)
    assert (later.name, later.champion.version) == ("later", "v1.0.0")
    assert (tmp_path / f"{NAME}.json").read_bytes() == served


def test_registering_the_same_checkout_again_gives_the_same_version(project: Path) -> None:
    (project / "params.yaml").write_text((project / "params.yaml").read_text().replace("rate: 0.", "rate: 0.7"))
    repro(project)
    assert [first.register(project, NAME) for _ in range(2)] == ["v1.0.0", "v1.0.0"]
    with pytest.raises(Refused, match=r"dvc\.lock has no output models/missing for missing"):
        first.register(project, "missing")
    (project / "params.yaml").write_text((project / "params.yaml").read_text().replace("rate: 0.7", "rate: 0.8"))
    repro(project)
    assert first.register(project, NAME) == "v1.1.0"


def test_another_clone_gets_the_first_version_by_origin_and_remote(project: Path, tmp_path: Path) -> None:
    git(tmp_path, "init", "-q", "--bare", "origin.git")
    git(project, "remote", "add", "origin", str(tmp_path / "origin.git"))
    set_remote(project, url=str(tmp_path / "remote"))
    (project / "params.yaml").write_text((project / "params.yaml").read_text().replace("rate: 0.", "rate: 0.7"))
    repro(project)
    (deployed,) = first.deploy(project, tmp_path / "here")
    git(tmp_path, "clone", "-q", str(tmp_path / "origin.git"), "other")
    set_remote(tmp_path / "other", url=str(tmp_path / "remote"))
    assert registry.served(tmp_path / "other", NAME, "champion") == "v1.0.0"
    brought = materialise(tmp_path / "other", NAME, "v1.0.0", tmp_path / "there")
    assert contents(brought.folder).keys() >= {"model.safetensors", "config.json"}
    assert brought.files == deployed.champion.files


def test_a_remote_that_is_away_does_not_keep_a_version_from_being_served(
    project: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "remote").write_text("in the way of a folder")
    set_remote(project, url=str(tmp_path / "remote"))
    (deployed,) = first.deploy(project, tmp_path / "serving")
    pointer.verify(deployed.champion)
    assert "the DVC remote took not all, `dvc push` once it is there again" in caplog.text
