"""The flow against a real Prefect server and real DVC repositories: verdicts, scheduling, failures, the UI."""

import base64
import json
import re
import time
from contextlib import chdir
from pathlib import Path
from typing import Any

import pytest
from dvc.repo import Repo
from prefect import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId, FlowRunFilter, FlowRunFilterId
from prefect.client.schemas.objects import State
from prefect.client.schemas.sorting import TaskRunSort

from flows.pipeline import pipeline
from tests.flows.tools import Make, commit, git, repro, status, until

pytestmark = pytest.mark.usefixtures("server")

DIAMOND = """\
stages:
  top: {cmd: cat in > top, deps: [in], outs: [top]}
  left: {cmd: cat top > left, deps: [top], outs: [left]}
  right: {cmd: cat top more > right, deps: [top, more], outs: [right]}
  bottom: {cmd: cat left right > bottom, deps: [left, right], outs: [bottom]}
"""


def run(root: Path, **parameters: Any) -> State[Any]:
    return pipeline(repo=str(root), return_state=True, **{"slots": 4, "devices": []} | parameters)


def verdicts(state: State[Any]) -> dict[str, str]:
    """Stage -> name of its task run's last state, once the server has heard of all of them."""
    return {name: task["state_name"] for name, task in task_runs(state).items()}


def task_runs(state: State[Any]) -> dict[str, dict[str, Any]]:
    count = int(re.match(r"(\d+) stages", state.message or "").group(1))  # type: ignore[union-attr]
    flow_run = FlowRunFilter(id=FlowRunFilterId(any_=[state.state_details.flow_run_id]))  # type: ignore[list-item]

    def look() -> dict[str, dict[str, Any]]:
        with get_client(sync_client=True) as client:
            found = client.read_task_runs(flow_run_filter=flow_run, sort=TaskRunSort.EXPECTED_START_TIME_ASC)
        runs = {task.name: task.model_dump(mode="json") for task in found if task.name != "push"}
        return runs if len(runs) == count and all(task.state.is_final() for task in found if task.state) else {}

    return until(look)


def artifacts(state: State[Any]) -> dict[str, Any]:
    """Key -> data of the artifacts of a run."""
    run_id = ArtifactFilterFlowRunId(any_=[state.state_details.flow_run_id])  # type: ignore[list-item]
    with get_client(sync_client=True) as client:
        found = client.read_artifacts(artifact_filter=ArtifactFilter(flow_run_id=run_id), limit=200)
    return {artifact.key: artifact.data for artifact in found if artifact.key}


def test_stages_run_then_are_cached_and_only_what_a_change_reaches_runs_again(make: Make) -> None:
    root = make({"dvc.yaml": DIAMOND, "in": "1\n", "more": "2\n"})
    state = run(root)
    assert state.is_completed()
    runs = task_runs(state)
    assert {task["state_name"] for task in runs.values()} == {"Completed"}
    after = {name: {source["id"] for source in task["task_inputs"].get("wait_for", [])} for name, task in runs.items()}
    assert after["bottom"] == {runs["left"]["id"], runs["right"]["id"]}  # what the UI draws
    assert status(root) == {}
    assert repro(root) == []
    assert set(verdicts(run(root)).values()) == {"Cached"}

    (root / "more").write_text("3\n")
    changed = {"top": "Cached", "left": "Cached", "right": "Completed", "bottom": "Completed"}
    assert verdicts(run(root)) == changed
    (root / "more").write_text("2\n")
    assert verdicts(run(root)) == {name: verdict.replace("Completed", "Restored") for name, verdict in changed.items()}
    assert verdicts(run(root, targets=["right"], force=True)) == {"top": "Completed", "right": "Completed"}
    assert status(root) == {}


def test_a_stage_is_cached_when_what_ran_before_it_gives_the_same(make: Make) -> None:
    root = make({"dvc.yaml": DIAMOND, "in": "1\n", "more": "2\n"})
    repro(root)
    (root / "dvc.yaml").write_text(DIAMOND.replace("cat in > top", "cat < in > top"))
    assert verdicts(run(root)) == {"top": "Completed", "left": "Cached", "right": "Cached", "bottom": "Cached"}


def test_a_failed_stage_fails_what_needs_it_and_the_next_run_goes_on_from_there(make: Make) -> None:
    root = make({"dvc.yaml": DIAMOND + "  other: {cmd: cat in > other, deps: [in], outs: [other]}\n", "in": "1\n"})
    git(root, "rm", "-q", "--cached", "in")
    state = run(root)  # `more` is missing
    assert state.is_failed()
    assert "right: " in str(state.message)
    assert "more" in str(state.message)
    runs = task_runs(state)
    assert {name: task["state_name"] for name, task in runs.items()} == {
        "top": "Completed", "left": "Completed", "right": "Failed", "bottom": "Skipped", "other": "Completed",
    }  # fmt: skip
    assert runs["bottom"]["state"]["message"] == "needs right, which failed"
    assert not (root / "bottom").exists()

    (root / "more").write_text("2\n")
    assert verdicts(run(root)) == {
        "top": "Cached", "left": "Cached", "right": "Completed", "bottom": "Completed", "other": "Cached",
    }  # fmt: skip
    assert status(root) == {}


def test_retries_and_timeouts_follow_meta(make: Make, tmp_path: Path) -> None:
    tries = tmp_path / "tries"
    root = make(
        {
            "dvc.yaml": f"""\
stages:
  flaky: {{cmd: 'echo >> {tries}; test $(wc -l < {tries}) = 2 && touch flaky', outs: [flaky], meta: {{retries: 1}}}}
  slow: {{cmd: sleep 300, outs: [slow], meta: {{timeout: 0.5}}}}
  never: {{cmd: exit 3, outs: [never]}}
"""
        }
    )
    state = run(root)
    runs = task_runs(state)
    assert {name: task["state_name"] for name, task in runs.items()} == {
        "flaky": "Completed", "slow": "TimedOut", "never": "Failed",
    }  # fmt: skip
    assert [runs[name]["run_count"] for name in ("flaky", "slow", "never")] == [2, 1, 1]
    assert "exit status 3" in runs["never"]["state"]["message"]
    assert "meta.timeout" in runs["slow"]["state"]["message"]


def test_slots_threads_devices_and_exclusive_are_kept(make: Make) -> None:
    """Each stage notes when it ran and what it saw; no moment may hold more than the machine has."""
    needs = {
        "a": {"threads": 1}, "b": {"threads": 1}, "c": {"threads": 2}, "d": {"threads": 9},
        "e": {"exclusive": True}, "f": {"gpus": 1}, "g": {"pool": "gpu"}, "h": {"gpus": 2}, "i": {},
    }  # fmt: skip
    root = make(
        {
            "dvc.yaml": json.dumps(
                {
                    "stages": {
                        name: {"cmd": f"python note.py {name}", "outs": [f"{name}.json"], "meta": meta}
                        for name, meta in needs.items()
                    }
                }
            ),
            "note.py": "import json, os, sys, time\nbegin = time.time(); time.sleep(0.4)\n"
            "json.dump([begin, time.time(), os.environ['CUDA_VISIBLE_DEVICES']], open(sys.argv[1] + '.json', 'w'))",
        }
    )
    assert run(root, slots=3, devices=["0", "1"]).is_completed()
    seen = {name: json.loads((root / f"{name}.json").read_text()) for name in needs}
    weight = {name: min(max(1, int(meta.get("threads", 1))), 3) for name, meta in needs.items()}
    most = 0
    for begin, _, _ in seen.values():
        at_once = [name for name, (start, end, _) in seen.items() if start <= begin < end]
        devices = [device for name in at_once for device in seen[name][2].split(",") if device]
        assert sum(weight[name] for name in at_once) <= 3
        assert len(devices) == len(set(devices))
        assert "e" not in at_once or at_once == ["e"]
        most = max(most, len(at_once))
    assert most > 1
    count = {name: len([device for device in seen[name][2].split(",") if device]) for name in needs}
    assert count == {name: {"f": 1, "g": 1, "h": 2}.get(name, 0) for name in needs}


def test_a_stage_that_asks_for_more_devices_than_there_are_fails_alone_and_only_when_it_has_to_run(make: Make) -> None:
    dvc = """\
stages:
  big: {cmd: cp in big, deps: [in], outs: [big], meta: {gpus: 2}}
  small: {cmd: touch small, outs: [small]}
"""
    root = make({"dvc.yaml": dvc, "in": "1\n"})
    state = run(root, devices=["0"])
    assert state.is_failed()
    assert "big: asks for 2 GPUs (meta.gpus), 1 declared or found" in str(state.message)
    assert verdicts(state) == {"big": "Failed", "small": "Completed"}
    repro(root)
    assert verdicts(run(root, devices=[])) == {"big": "Cached", "small": "Cached"}
    (root / "in").write_text("2\n")
    repro(root)
    (root / "in").write_text("1\n")
    assert verdicts(run(root, devices=[])) == {"big": "Restored", "small": "Cached"}


def test_stages_that_do_not_run_take_no_slot(make: Make) -> None:
    """One slot is taken by a stage that ends only when one that is restored, and one that is cached, have ended."""
    dvc = """\
stages:
  cached: {cmd: cat in > cached, deps: [in], outs: [cached]}
  restored: {cmd: cat in > restored, deps: [in], outs: [restored]}
  holds: {cmd: 'until test -e restored; do sleep 0.05; done; touch holds', outs: [holds], meta: {exclusive: true}}
"""
    root = make({"dvc.yaml": dvc, "in": "1\n"})
    with chdir(root), Repo(".") as repo:
        repo.reproduce(["cached", "restored"])
    (root / "restored").unlink()
    assert verdicts(run(root, slots=1)) == {"cached": "Cached", "restored": "Restored", "holds": "Completed"}


def test_phases_and_groups_choose_stages_with_what_they_need(make: Make) -> None:
    root = make(
        {
            "dvc.yaml": """\
stages:
  one: {cmd: touch one, outs: [one], meta: {phase: 1, group: core}}
  two: {cmd: cp one two, deps: [one], outs: [two], meta: {phase: 2, group: study}}
  three: {cmd: touch three, outs: [three], meta: {phase: 2, group: core}}
  none: {cmd: touch none, outs: [none]}
"""
        }
    )
    assert set(verdicts(run(root, phases=[2], groups=["study"]))) == {"one", "two"}
    assert set(verdicts(run(root, phases=[2]))) == {"one", "two", "three"}
    assert set(verdicts(run(root, groups=["core"]))) == {"one", "three"}
    assert set(verdicts(run(root))) == {"one", "two", "three", "none"}


def test_metrics_pictures_lineage_and_summary_become_artifacts(make: Make) -> None:
    draw = (
        "from PIL import Image; import json, os\nos.makedirs('plots')\n"
        "Image.new('RGB', (8, 8)).save('plots/small.png')\n"
        "Image.frombytes('RGB', (1400, 700), os.urandom(1400 * 700 * 3)).save('large.png')\n"
        "json.dump({'accuracy': 0.75, 'by': {'class': 3}}, open('metrics.json', 'w'))"
    )
    root = make(
        {
            "dvc.yaml": """\
stages:
  train@a_B:
    cmd: python draw.py
    deps: [draw.py]
    params: [depth]
    metrics: [metrics.json: {cache: false}]
    plots: [plots, large.png]
""".replace("train@a_B", "train_B"),
            "params.yaml": "depth: 2\n",
            "draw.py": draw,
        }
    )
    state = run(root)
    found = artifacts(state)
    assert json.loads(found["metrics-train-b"]) == [
        {"metric": "accuracy", "value": 0.75}, {"metric": "by.class", "value": 3},
    ]  # fmt: skip
    pictures = re.findall(r"!\[(\S+)\]\(data:image/(\w+);base64,([^)]+)\)", found["pictures-train-b"])
    assert {name: kind for name, kind, _ in pictures} == {"small.png": "png", "large.png": "jpeg"}
    assert all(len(base64.b64decode(data)) < 2_000_000 for _, _, data in pictures)
    lineage = {row["path"]: row["hash"] for row in json.loads(found["lineage-train-b"])}
    with chdir(root), Repo(".") as repo:
        (stage,) = repo.stage.collect("train_B")
        files = [item for item in (*stage.deps, *stage.outs) if not hasattr(item, "params")]
        assert lineage == {str(item): item.hash_info.value for item in files} | {"depth": "2"}
    (row,) = json.loads(found["pipeline-summary"])
    assert (row["stage"], row["verdict"], row["main metric"]) == ("train_B", "Completed", "accuracy 0.75")
    assert row["seconds"] > 0


def test_lines_are_in_the_task_run_log_while_the_stage_runs(make: Make) -> None:
    """The stage ends when the server has its first line; it asks the server itself."""
    ask = """\
import os, time, httpx
print("a first line")
body = {"logs": {"level": {"ge_": 0}}, "sort": "TIMESTAMP_DESC", "limit": 200}
while True:
    lines = httpx.post(os.environ["PREFECT_API_URL"] + "/logs/filter", json=body).json()
    if any(line["message"] == "a first line" and line["task_run_id"] for line in lines):
        break
    time.sleep(0.1)
open("out", "w").write("seen")
"""
    root = make({"dvc.yaml": "stages: {ask: {cmd: python ask.py, outs: [out], meta: {timeout: 60}}}", "ask.py": ask})
    assert run(root).is_completed()


def test_a_clone_restores_what_another_one_pushed(make: Make, tmp_path: Path) -> None:
    """Nothing but the remote is shared: not the cache, and dvc.lock was never committed."""
    root = make({"dvc.yaml": DIAMOND, "in": "1\n", "more": "2\n"})
    with (root / ".dvc/config").open("a") as config:
        config.write(f"    remote = store\n['remote \"store\"']\n    url = {tmp_path / 'store'}\n")
    commit(root)
    assert set(verdicts(run(root)).values()) == {"Completed"}
    clone = tmp_path / "clone"
    git(tmp_path, "clone", "-q", str(root), str(clone))
    assert not (clone / "dvc.lock").exists()
    assert set(verdicts(run(clone)).values()) == {"Restored"}
    assert (clone / "bottom").read_text() == "1\n1\n2\n"
    assert status(clone) == {}
    assert set(verdicts(run(clone)).values()) == {"Cached"}


RICH = {
    "params.yaml": "sizes: {small: {n: 2}, large: {n: 5}}\nfactor: 3\n",
    "make.py": "import sys; print(*range(int(sys.argv[1])), sep='\\n', file=open(sys.argv[2], 'w'))\n",
    "dvc.yaml": """\
stages:
  number:
    foreach: ${sizes}
    do:
      cmd: python make.py ${item.n} number-${key}.txt
      deps: [make.py]
      params: ["sizes.${key}"]
      outs: ["number-${key}.txt"]
      meta: {threads: 2, phase: 1}
  cross:
    matrix:
      size: [small, large]
      sign: [plus, minus]
    cmd: "(echo ${item.sign}; cat number-${item.size}.txt) > cross-${item.size}-${item.sign}.txt"
    deps: ["number-${item.size}.txt"]
    outs: ["cross-${item.size}-${item.sign}.txt"]
  measure:
    cmd: [mkdir -p plots notes, "echo '{\\"lines\\": 4}' > lines.json", "echo x,y > plots/curve.csv",
      echo a >> notes/kept]
    deps: [cross-large-plus.txt, data.txt]
    params: [factor]
    outs: [notes: {persist: true, cache: false}]
    metrics: [lines.json: {cache: false}]
    plots: [plots]
  old:
    cmd: cat number-small.txt > old.txt
    deps: [number-small.txt]
    outs: [old.txt]
    frozen: true
  always:
    cmd: echo 1 > always.txt
    outs: [always.txt]
    always_changed: true
  after:
    cmd: cat always.txt > after.txt
    deps: [always.txt]
    outs: [after.txt]
  callback:
    cmd: echo called
""",
    "sub/dvc.yaml": """\
stages:
  inner:
    cmd: cat ../../number-large.txt > folder.txt
    wdir: deep
    deps: [../../number-large.txt]
    outs: [folder.txt]
""",
    "sub/deep/.keep": "",
    "last/dvc.yaml": """\
stages:
  last: {cmd: ls -R ../sub/deep > all.txt, deps: [../sub/deep/folder.txt], outs: [all.txt]}
""",
    "data.txt": "by hand\n",
    "outside/source.txt": "from elsewhere\n",
}


def rich(make: Make, name: str) -> Path:
    root = make(RICH, name)
    git(root, "rm", "-q", "--cached", "data.txt")
    (root / "old.txt").write_text("0\n1\n")
    (root / "number-small.txt").write_text("an earlier one\n")
    with chdir(root), Repo(".") as repo:
        repo.add("data.txt")
        repo.imp_url("outside/source.txt", "imported.txt")
        repo.commit("old", force=True)
    (root / "number-small.txt").unlink()
    commit(root)
    return root


def entries(root: Path) -> dict[str, Any]:
    """The stages of every dvc.lock."""
    from ruamel.yaml import YAML

    locks = [root / folder / "dvc.lock" for folder in (".", "sub", "last")]
    return {str(lock.relative_to(root)): YAML(typ="safe").load(lock)["stages"] for lock in locks}


def test_it_agrees_with_dvc_repro_on_a_repository_with_all_kinds_of_stages(make: Make) -> None:
    by_flow, by_hand = rich(make, "by_flow"), rich(make, "by_hand")
    state = run(by_flow)
    assert state.is_completed(), state.message
    repro(by_hand)
    mine, theirs = entries(by_flow), entries(by_hand)
    assert mine == theirs
    always = {"always", "callback"}
    assert set(status(by_flow)) <= always
    assert set(repro(by_flow)) <= always
    again = verdicts(run(by_flow))
    assert {name for name, verdict in again.items() if verdict != "Cached"} == always
    assert {"data.txt.dvc", "imported.txt.dvc", "old", "sub/dvc.yaml:inner", "cross@small-minus"} <= set(again)

    (by_flow / "data.txt").write_text("edited\n")
    (by_flow / "params.yaml").write_text(RICH["params.yaml"].replace("n: 2", "n: 3"))
    third = verdicts(run(by_flow))
    assert {name for name, verdict in third.items() if verdict != "Cached"} == always | {
        "data.txt.dvc", "measure", "number@small", "cross@small-plus", "cross@small-minus",
    }  # fmt: skip
    assert set(status(by_flow)) <= always


def test_a_fresh_clone_with_the_same_cache_restores_everything(make: Make, tmp_path: Path) -> None:
    root = rich(make, "origin")
    assert run(root).is_completed()
    commit(root)
    clone = tmp_path / "clone"
    git(tmp_path, "clone", "-q", str(root), str(clone))
    (clone / ".dvc/config.local").write_text(f"[cache]\n    dir = {root / '.dvc/cache'}\n")
    got = verdicts(run(clone))
    # DVC keeps no runs of stages that have no inputs, are always changed, or keep an output between runs (measure)
    assert {name for name, verdict in got.items() if verdict == "Completed"} == {"always", "callback", "measure"}
    mine, theirs = entries(clone), entries(root)
    assert mine["dvc.lock"].pop("measure") != theirs["dvc.lock"].pop("measure")  # it adds a line in every run
    assert mine == theirs


def test_what_is_refused_says_so_in_one_line(make: Make, tmp_path: Path) -> None:
    begin = time.monotonic()
    for root, parameters, message in (
        (tmp_path, {}, "in no DVC repository"),
        (make({"dvc.yaml": "stages: [\n"}), {}, "the graph does not read"),
        (make({"dvc.yaml": DIAMOND}, "b"), {"targets": ["tpo"]}, "no stage or .dvc file 'tpo' here; there is top"),
        (make({"dvc.yaml": DIAMOND}, "c"), {"slots": 0}, "slots must be 1 or more, not 0"),
    ):
        state = run(root, **parameters)
        assert (state.type.value, state.name) == ("FAILED", "Refused")
        assert message in str(state.message)
        assert "\n" not in str(state.message)
    assert time.monotonic() > begin
