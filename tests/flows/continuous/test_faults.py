"""What may fail around a retraining: a full disk, remotes that are away, a database that is restarted. The champion
serves, what happened is told, and the run goes on once that is mended."""

import json
import resource
import time
from pathlib import Path

import pytest
from dvc.config import Config, merge

from flows.continuous import incoming
from flows.continuous_training import inbox
from tests.components.inference.postgres import cluster
from tests.flows.circle import NAME, Users, serving, words
from tests.flows.test_continuous_training import arrive, begin, champion, experiments, run, told, versions
from tests.flows.tools import git, until


@pytest.mark.slow
@pytest.mark.usefixtures("server")
def test_a_full_disk_is_told_and_the_run_goes_on_once_there_is_room(root: Path) -> None:
    """No file of more than a megabyte can be written: the new data have two, and are to be copied into the clone."""
    arrive(root, words("old", 60_000, wrong=True))
    incoming.take(str(root / "incoming"), inbox(root, NAME), ["*.jsonl"])
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    with told(root) as said:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, before[1]))
        try:
            state = run(root)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert state.name == "Refused"
        assert "File too large" in (state.message or "")
        assert champion(root) == "v1.0.0"
        assert run(root).name == "Declined", "it goes on"
        assert [each["outcome"] for each in said] == ["Refused", "Declined"]


@pytest.mark.slow
@pytest.mark.usefixtures("server")
def test_a_missing_remote_or_origin_is_told_and_the_run_goes_on_once_it_is_there(root: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder can be made below it")
    with Config(str(root / ".dvc")).edit("local") as local:
        merge(local, {"core": {"remote": "away"}, "remote": {"away": {"url": str(tmp_path / "file" / "remote")}}})
    git(root, "remote", "add", "origin", str(tmp_path / "origin.git"))
    arrive(root, words("new", 200))
    state = run(root)
    assert state.is_failed()
    assert "push" in (state.message or "")
    assert versions(root) == ["v1.0.0"], "what others cannot have is not registered"
    (tmp_path / "file").unlink()
    state = run(root)
    assert state.name == "Refused"
    assert "origin" in (state.message or "")
    assert champion(root) == "v1.0.0"
    git(tmp_path, "init", "-q", "--bare", "-b", "main", "origin.git")
    with Users(root):
        assert run(root).name == "Promoted"
    assert f"{NAME}@v1.1.0" in git(tmp_path / "origin.git", "tag")
    assert any((tmp_path / "file" / "remote").rglob("*.dir")), "data and models are on the remote"


@pytest.mark.slow
@pytest.mark.usefixtures("server")
def test_a_database_that_is_restarted_in_mid_trial_ends_no_trial(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arrive(root, words("new", 200))
    with cluster() as database:
        monkeypatch.setenv("TSUMUGI_DATABASE", database.url)
        flow = begin(root)
        until(lambda: json.loads((serving(root) / f"{NAME}.json").read_text())["challenger"], 120)
        database.stop()
        time.sleep(3)  # ten looks
        assert flow.poll() is None
        database.start()
        with Users(root):
            ended, _ = flow.communicate(timeout=180)
        assert "Promoted" in ended.splitlines()[-1], ended
        assert "the traffic database is asked again" in ended
        assert experiments(root) == [("ended", "promote")]
    assert champion(root) == "v1.1.0"
