"""The steps of the bridge against DVC itself: what they find, record, refuse, wait for and survive."""

import os
import shutil
import sys
import threading
from contextlib import chdir
from pathlib import Path

import pytest
from dvc.repo import Repo

from flows.bridge import Bridge, InputsChanged, Outlook, StageFailed, StageTimedOut, Work
from flows.locks import Cancelled
from flows.workspace import Refused
from tests.flows.tools import Make, bridge, repro, settle, start, status, until

CHAIN = {
    "dvc.yaml": """\
stages:
  first:
    cmd: sed s/a/b/ in.txt > first.txt
    deps: [in.txt]
    outs: [first.txt]
  second:
    cmd: cat first.txt in.txt > second.txt
    deps: [first.txt, in.txt]
    outs: [second.txt]
""",
    "in.txt": "aa\n",
}


def test_a_stage_is_run_once_then_cached_then_restored(make: Make) -> None:
    root = make(CHAIN)
    with bridge(root) as b:
        assert b.plan(b.graph()) == {"first": Outlook.RUN}  # second waits for it
        assert [settle(b, name) for name in ("first", "second")] == [Outlook.RUN, Outlook.RUN]
        assert set(b.plan(b.graph()).values()) == {Outlook.CACHED}
        assert status(root) == {}
        assert repro(root) == []

        (root / "second.txt").unlink()
        assert b.look("second") == Outlook.RESTORE
        assert settle(b, "second") == Outlook.RESTORE

        (root / "in.txt").write_text("ca\n")
        assert [settle(b, name) for name in ("first", "second")] == [Outlook.RUN, Outlook.RUN]
        (root / "in.txt").write_text("aa\n")  # both are in the run cache
        assert b.look("first") == Outlook.RESTORE
        assert (root / "first.txt").read_text() == "cb\n"  # to look changes nothing
        assert [settle(b, name) for name in ("first", "second")] == [Outlook.RESTORE, Outlook.RESTORE]
        assert (root / "second.txt").read_text() == "ba\naa\n"
        assert status(root) == {}


def test_a_stage_whose_inputs_turn_out_the_same_is_cached(make: Make) -> None:
    root = make(CHAIN)
    repro(root)
    with bridge(root) as b:
        (root / "in.txt").write_text("bb\n")
        repro(root)
        (root / "dvc.yaml").write_text(CHAIN["dvc.yaml"].replace("sed s/a/b/ in.txt", "cat in.txt"))
        assert b.look("first") == Outlook.RUN
        assert settle(b, "first") == Outlook.RUN
        assert settle(b, "second") == Outlook.CACHED


def test_old_outputs_are_not_taken_for_those_of_new_inputs(make: Make) -> None:
    """DVC's lookup, asked after save_deps(), would give the outputs that dvc.lock still names."""
    root = make(CHAIN)
    repro(root)
    (root / "in.txt").write_text("something else\n")
    with bridge(root) as b:
        assert b.look("first") == Outlook.RUN


def test_nothing_is_recorded_when_inputs_change_while_a_stage_runs(make: Make) -> None:
    root = make(CHAIN)
    repro(root)
    lock = (root / "dvc.lock").read_bytes()
    (root / "in.txt").write_text("one\n")
    with bridge(root) as b:
        work = b.begin("first")
        assert isinstance(work, Work)
        b.run(work, lambda line: (root / "in.txt").write_text("two\n"))  # the log line comes before the command
        with pytest.raises(InputsChanged, match="in.txt changed while it ran"):
            b.finish(work)
        assert (root / "dvc.lock").read_bytes() == lock
        assert b.look("first") == Outlook.RUN
        assert settle(b, "first") == Outlook.RUN


def test_a_definition_edited_while_a_stage_runs_is_not_taken_for_what_ran(make: Make) -> None:
    root = make(CHAIN)
    with bridge(root) as b:
        work = b.begin("first")
        assert isinstance(work, Work)
        b.run(work, lambda line: None)
        (root / "dvc.yaml").write_text(CHAIN["dvc.yaml"].replace("s/a/b/", "s/a/c/"))
        b.finish(work)
        assert status(root)["first"] == ["changed command"]


def test_a_failed_stage_keeps_dvc_lock_and_frees_its_files(make: Make) -> None:
    root = make(CHAIN | {"dvc.yaml": CHAIN["dvc.yaml"].replace("sed s/a/b/ in.txt", "echo the reason; exit 4; cat")})
    with bridge(root) as b:
        work = b.begin("first")
        assert isinstance(work, Work)
        with pytest.raises(StageFailed, match="exit status 4: the reason"):
            b.run(work, lambda line: None)
        assert not (root / "dvc.lock").exists()
        assert b.look("first") == Outlook.RUN  # not busy


def test_a_stage_that_takes_too_long_is_ended(make: Make) -> None:
    root = make(CHAIN | {"dvc.yaml": "stages: {slow: {cmd: [echo begun, sleep 300], outs: [never]}}"})
    with bridge(root) as b:
        work = b.begin("slow")
        assert isinstance(work, Work)
        with pytest.raises(StageTimedOut):
            b.run(work, lambda line: None, timeout=0.3)


def test_cancel_ends_what_runs_and_lets_nothing_begin(make: Make) -> None:
    root = make(CHAIN | {"dvc.yaml": "stages: {slow: {cmd: echo $$ > pid; sleep 300, outs: [never]}}"})
    with bridge(root) as b:
        work = b.begin("slow")
        assert isinstance(work, Work)
        threading.Timer(0.5, b.cancel).start()
        with pytest.raises(Cancelled):
            b.run(work, lambda line: None)
        with pytest.raises(Cancelled):
            b.begin("slow")


def test_a_stage_runs_as_dvc_would_run_it(make: Make) -> None:
    """Directory, environment and shell; beside that, this interpreter first on PATH and only the given devices."""
    show = (
        "import os, sys; "
        "print(sys.executable, os.getcwd(), *(os.environ.get(n) for n in NAMES), file=open('seen', 'w'))"
    )
    names = ["DVC_ROOT", "DVC_STAGE", "CUDA_VISIBLE_DEVICES"]
    root = make(
        {
            "sub/dvc.yaml": "stages: {show: {cmd: python show.py, wdir: inner, outs: [seen]}}",
            "sub/inner/show.py": show.replace("NAMES", repr(names)),
        }
    )
    with bridge(root) as b:
        (name,) = b.graph()
        assert name == "sub/dvc.yaml:show"
        for devices, expected in (((), ""), (("0", "GPU-7"), "0,GPU-7")):
            work = b.begin(name, force=True)
            assert isinstance(work, Work)
            b.run(work, lambda line: None, devices=devices)
            b.finish(work)
            got = (root / "sub/inner/seen").read_text().rstrip("\n").split(" ")
            assert Path(got[0]).parent == Path(sys.executable).parent
            assert got[1:] == [str(root / "sub/inner"), str(root), name, expected]


def test_dvc_by_hand_finds_the_files_of_a_running_stage_busy(make: Make) -> None:
    root = make(CHAIN)
    with bridge(root) as b:
        work = b.begin("first")
        assert isinstance(work, Work)
        by_hand = start("-m", "dvc", "repro", "first", cwd=root)
        said, _ = by_hand.communicate()
        assert by_hand.returncode != 0
        assert "busy" in said
        assert "flow: first" in said
        b.run(work, lambda line: None)
        b.finish(work)
        assert repro(root) == ["second"]  # nothing is busy any more


def test_a_finished_stage_is_recorded_however_long_another_process_holds_the_lock(make: Make) -> None:
    """Longer than the three seconds after which DVC itself gives up."""
    root = make(CHAIN)
    with bridge(root) as b:
        work = b.begin("first")
        assert isinstance(work, Work)
        b.run(work, lambda line: None)
        holder = start(
            "-c",
            "import time; from dvc.repo import Repo\nwith Repo().lock: open('held', 'w'); time.sleep(4.5)",
            cwd=root,
        )
        until(lambda: (root / "held").exists())
        b.finish(work)
        holder.communicate()
        assert any(f"process {holder.pid}" in line for line in b.said)  # type: ignore[attr-defined]
        assert b.look("first") == Outlook.CACHED


def test_a_stage_that_is_run_by_hand_is_waited_for(make: Make) -> None:
    root = make({"dvc.yaml": "stages: {slow: {cmd: touch begun; sleep 2; echo 1 > out, outs: [out]}}"})
    with bridge(root) as b:
        by_hand = start("-m", "dvc", "repro", cwd=root)
        until(lambda: (root / "begun").exists())
        assert b.look("slow") == Outlook.BUSY
        assert b.begin("slow") == Outlook.CACHED
        by_hand.communicate()
        assert any("busy" in line for line in b.said)  # type: ignore[attr-defined]


def test_entries_of_a_killed_process_and_a_broken_lock_file_do_not_block(make: Make) -> None:
    root = make(CHAIN)
    with bridge(root) as b:
        rwlock = root / ".dvc/tmp/rwlock"
        lost = b.begin("first")
        assert isinstance(lost, Work)
        assert "flow: first" in rwlock.read_text()
        dead = start("-c", "pass")
        dead.communicate()
        rwlock.write_text(
            rwlock.read_text().replace(str(os.getpid()), str(dead.pid))
        )  # as if that process had begun it
        assert settle(b, "first") == Outlook.RUN
        b.locks.locked(lambda: b.locks.release(lost.held))

        work = b.begin("second")
        assert isinstance(work, Work)
        b.run(work, lambda line: None)
        rwlock.write_text("")  # what a full disk leaves
        b.finish(work)
        assert status(root) == {}


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"dvc.yaml": "stages: {a: {outs: [x]}}"}, "the graph does not read: .*dvc.yaml"),
        ({"dvc.yaml": "stages: [\n"}, "the graph does not read: .*dvc.yaml"),
        ({"dvc.yaml": "stages: {a: {cmd: b, deps: ['${none}']}}"}, "the graph does not read: .*none"),
        ({"dvc.yaml": "stages: {a: {cmd: b, outs: [o]}, c: {cmd: d, outs: [o]}}"}, "the graph does not read: .*'?o'?"),
        ({"dvc.yaml": "stages: {a: {cmd: b, meta: {threads: two}}}"}, "stage a: meta.threads must be .*, not 'two'"),
        ({"dvc.yaml": "stages: {a: {cmd: b, meta: {timeout: -1}}}"}, "stage a: meta.timeout must be .*, not -1"),
        ({"dvc.yaml": "stages: {a: {cmd: b, meta: {exclusive: 1}}}"}, "stage a: meta.exclusive must be .*, not 1"),
    ],
)
def test_what_does_not_read_is_refused_in_one_line(files: dict[str, str], message: str, make: Make) -> None:
    root = make(files)
    with chdir(root), pytest.raises(Refused, match=message) as refusal:
        Bridge(Path(".")).graph()
    assert "\n" not in str(refusal.value)


def test_an_unknown_target_is_refused_with_the_nearest_names(make: Make) -> None:
    with bridge(make(CHAIN)) as b:
        with pytest.raises(Refused, match="no stage or .dvc file 'secnd' here; there is second"):
            b.graph(["secnd"])
        assert list(b.graph(["second"])) == ["first", "second"]
        assert list(b.graph(["first"])) == ["first"]


def test_no_git_and_no_dvc_are_refused_in_one_line(tmp_path: Path, make: Make) -> None:
    root = make(CHAIN)
    with pytest.raises(Refused, match="in no DVC repository.*`dvc init`"):
        Bridge(tmp_path)
    shutil.rmtree(root / ".git")
    with pytest.raises(Refused, match="in no git repository.*`git init`"):
        Bridge(root)


def test_the_records_hold_what_dvc_lock_holds(make: Make) -> None:
    root = make(CHAIN)
    repro(root)
    with bridge(root) as b, Repo(str(root)) as repo:
        (stage,) = repo.stage.collect("second")
        expected = {str(item): item.hash_info.value for item in (*stage.deps, *stage.outs)}
        assert {file.path: file.hash for file in b.known("second").files} == expected
