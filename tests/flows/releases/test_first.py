"""What a checkout has made is deployed without a commit of the person's: branch, index and files stay as they are."""

from pathlib import Path

from components.inference import pointer
from flows.releases import first, recorded
from tests.flows.released import MODEL, NAME
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
