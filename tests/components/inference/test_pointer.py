"""The pointer survives what files meet: a kill while it is written, a cut, another program's file, a changed weight."""

import hashlib
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from components.inference import pointer
from components.inference.pointer import Challenger, Pointer, Version

DIGEST = hashlib.sha256(b"weights").hexdigest()


@pytest.fixture
def version(tmp_path: Path) -> Version:
    folder = tmp_path / "versions" / "decoder" / "v1.0.0"
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"weights")
    return Version("v1.0.0", "c" * 40, folder, {"model.safetensors": DIGEST})


def champion_only(version: Version, serial: int = 1) -> Pointer:
    return Pointer("decoder", version, None, serial)


def test_the_file_is_the_contract(tmp_path: Path, version: Version) -> None:
    """Other programs read it: the JSON is spelled out here, not taken from the code."""
    trial = Challenger(**vars(version), share=0.1, mode="canary", experiment="e1")
    path = pointer.place(tmp_path, "decoder")
    pointer.write(path, Pointer("decoder", version, trial, 7))
    plain = {
        "version": "v1.0.0",
        "commit": "c" * 40,
        "folder": str(version.folder),
        "files": {"model.safetensors": DIGEST},
    }
    assert json.loads(path.read_text()) == {
        "name": "decoder",
        "champion": plain,
        "challenger": plain | {"share": 0.1, "mode": "canary", "experiment": "e1"},
        "serial": 7,
    }
    assert pointer.read(path) == Pointer("decoder", version, trial, 7)
    assert [file.name for file in tmp_path.iterdir() if file.is_file()] == ["decoder.json"]


def test_a_reader_never_sees_half_a_pointer_while_the_writer_is_killed(tmp_path: Path, version: Version) -> None:
    path = pointer.place(tmp_path, "decoder")
    pointer.write(path, champion_only(version))
    code = f"""
from components.inference import pointer
from dataclasses import replace
from pathlib import Path
path = Path({str(path)!r})
first = pointer.read(path)
print("ready", flush=True)
for serial in range(first.serial + 1, 10**9):
    pointer.write(path, replace(first, serial=serial))
"""
    for _ in range(3):
        writer = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, env=os.environ, text=True)
        assert writer.stdout and writer.stdout.readline() == "ready\n"
        serials = [pointer.read(path).serial for _ in range(200)]
        writer.kill()
        writer.communicate()
        assert serials == sorted(serials)
        assert replace(pointer.read(path), serial=1) == champion_only(version)


def test_every_cut_of_the_file_is_one_clear_error(tmp_path: Path, version: Version) -> None:
    path = pointer.place(tmp_path, "decoder")
    pointer.write(path, champion_only(version))
    whole = path.read_bytes()
    for length in range(len(whole.rstrip()) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"decoder\.json: a pointer is JSON, this is not .*deploy again"):
            pointer.read(path)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda found: ["a", "list"], "needs challenger, champion, name, serial and has list"),
        (lambda found: {"name": "decoder"}, "needs challenger, champion, name, serial and has name"),
        (lambda found: found | {"serial": "2"}, "serial is a str"),
        (lambda found: found | {"serial": True}, "serial is a bool"),
        (lambda found: found | {"serial": 0}, "serial 0 is not 1 or more"),
        (lambda found: found | {"name": "encoder"}, "the pointer of 'encoder', not of 'decoder'"),
        (lambda found: found | {"champion": found["champion"] | {"files": {}}}, "files is empty"),
        (lambda found: found | {"champion": found["champion"] | {"files": {"../a": DIGEST}}}, "'../a' is not below"),
        (lambda found: found | {"champion": found["champion"] | {"files": {"a": "12"}}}, "'12' is not a SHA-256"),
        (lambda found: found | {"champion": found["champion"] | {"files": {"a": 12}}}, "maps paths to hashes"),
        (lambda found: found | {"champion": found["champion"] | {"folder": "here"}}, "'here' is not an absolute"),
        (lambda found: found | {"challenger": found["champion"]}, "challenger needs .*share.* and has commit, files"),
        (
            lambda found: found | {"challenger": found["champion"] | {"share": 2, "mode": "canary", "experiment": "e"}},
            "share 2.0 is not between 0 and 1",
        ),
        (
            lambda found: (
                found | {"challenger": found["champion"] | {"share": 0.5, "mode": "silent", "experiment": "e"}}
            ),
            "mode 'silent' is none of canary, shadow",
        ),
    ],
)
def test_a_foreign_file_names_both_sides(tmp_path: Path, version: Version, change, says: str) -> None:
    path = pointer.place(tmp_path, "decoder")
    pointer.write(path, champion_only(version))
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    with pytest.raises(ValueError, match=says):
        pointer.read(path)


def test_nothing_deployed_is_told_apart_from_something_broken(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        pointer.read(pointer.place(tmp_path, "decoder"))


@pytest.mark.parametrize("name", ["", "../decoder", "a/b", ".hidden", "-x", "a\0b", "decoder\n"])
def test_a_name_cannot_leave_the_folder(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="is not letters, digits"):
        pointer.place(tmp_path, name)


def test_verify_finds_one_changed_bit_and_a_missing_file(version: Version) -> None:
    pointer.verify(version)
    weights = version.folder / "model.safetensors"
    weights.write_bytes(b"weighty")
    found = hashlib.sha256(b"weighty").hexdigest()
    with pytest.raises(ValueError, match=rf"model\.safetensors: version v1\.0\.0 has SHA-256 {DIGEST}, found {found}"):
        pointer.verify(version)
    weights.unlink()
    with pytest.raises(ValueError, match=r"found nothing \(No such file or directory\): materialise"):
        pointer.verify(version)
