"""The kinds of DVC remote, each with a server of its own that speaks the real protocol: a folder, S3, SSH.

Pushed where it was trained, a version is brought by its tag in a fresh clone, bit for bit; and `dvc pull` at the tag
gives the same files."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from flows.releases import registry
from flows.releases.materialise import materialise
from flows.workspace import Refused
from tests.flows.released import MODEL, NAME, contents, set_remote, trained
from tests.flows.tools import free_port, git, start

Settings = dict[str, str]


@contextmanager
def folder(tmp_path: Path) -> Iterator[Settings]:
    yield {"url": str(tmp_path / "remote")}


@contextmanager
def s3(tmp_path: Path) -> Iterator[Settings]:
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    keys = {"access_key_id": "someone", "secret_access_key": "secret"}
    try:
        named = {f"aws_{name}": value for name, value in keys.items()}
        client = boto3.client("s3", endpoint_url=f"http://{host}:{port}", region_name="us-east-1", **named)
        client.create_bucket(Bucket="models")
        yield {"url": "s3://models/tsumugi", "endpointurl": f"http://{host}:{port}", "region": "us-east-1", **keys}
    finally:
        server.stop()


SSH_SERVER = """
import asyncio, sys, asyncssh
async def main():
    keys = {"server_host_keys": [sys.argv[1]], "authorized_client_keys": sys.argv[2]}
    server = await asyncssh.listen("127.0.0.1", 0, sftp_factory=True, **keys)
    print(server.get_port(), flush=True)
    await server.wait_closed()
asyncio.run(main())
"""


@contextmanager
def ssh(tmp_path: Path) -> Iterator[Settings]:
    """asyncssh's server with SFTP, a process of its own; it lets in one key and nobody else."""
    import asyncssh

    for name in ("host", "own"):
        key = asyncssh.generate_private_key("ssh-ed25519")
        key.write_private_key(str(tmp_path / name))
        key.write_public_key(str(tmp_path / f"{name}.pub"))
    server = start("-c", SSH_SERVER, tmp_path / "host", tmp_path / "own.pub")
    try:
        assert server.stdout
        port = int(server.stdout.readline())
        yield {"url": f"ssh://someone@127.0.0.1:{port}{tmp_path}/remote", "keyfile": str(tmp_path / "own")}
    finally:
        server.kill()
        server.communicate()


@pytest.mark.slow
@pytest.mark.parametrize("kind", [folder, s3, ssh])
def test_a_fresh_clone_serves_the_same_bits(
    kind: Callable[[Path], AbstractContextManager[Settings]], project: Path, tmp_path: Path
) -> None:
    from dvc.repo import Repo

    with kind(tmp_path) as settings:
        set_remote(project, **settings)
        versions = [registry.register(project, NAME, ref) for ref in ("first", "third")]
        with Repo(str(project)) as repo:
            repo.push(all_commits=True)
        clone = tmp_path / "clone"
        git(tmp_path, "clone", "-q", str(project), str(clone))
        set_remote(clone, **settings)
        for version, ref in zip(versions, ("first", "third"), strict=True):
            served = materialise(clone, NAME, version, tmp_path / "serving", lambda line: None)
            found = {name: (served.folder / name).read_bytes() for name in served.files}
            assert found == trained(project, ref)
            pulled = tmp_path / f"pulled-{ref}"
            git(tmp_path, "clone", "-q", "--branch", f"{NAME}@{version}", str(clone), str(pulled))
            set_remote(pulled, **settings)
            with Repo(str(pulled)) as repo:
                repo.pull([str(pulled / MODEL)])
            assert contents(pulled / MODEL) == found


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"url": "/nowhere/that/exists"}, r"is not in the DVC cache nor on the remote store"),
        (
            {"url": "s3://models", "endpointurl": "http://127.0.0.1:{port}"},
            r"the remote store \(s3://models\) gave nothing",
        ),
        (
            {"url": "ssh://someone@127.0.0.1:{port}/x"},
            r"the remote store \(ssh://someone@127\.0\.0\.1:\d+/x\) gave nothing",
        ),
    ],
)
def test_a_remote_that_is_not_there_is_named(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, str], says: str
) -> None:
    port = free_port()  # where nobody listens
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "someone")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    version = registry.register(project, NAME, "first")
    clone = tmp_path / "clone"
    git(tmp_path, "clone", "-q", str(project), str(clone))
    set_remote(clone, **{name: value.format(port=port) for name, value in settings.items()})
    with pytest.raises(Refused, match=says):
        materialise(clone, NAME, version, tmp_path / "serving", lambda line: None)
    assert [path.name for path in (tmp_path / "serving" / "versions" / NAME).iterdir()] == [".lock"]
