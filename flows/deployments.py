"""Registers the work pools, deployments and schedules of prefect.yaml, when they or their flows have changed.

`prefect deploy` takes 7 s, a run in which all is cached about ten: so each deployment carries as its version a hash of
what it was made from, and is left alone while that holds. Prefect knows no pools in prefect.yaml: they stand under
`definitions`.
"""

import hashlib
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
from ruamel.yaml import YAML

from flows.processes import Unavailable
from flows.server import create_automation


def register(client: httpx.Client, root: Path) -> str:
    """Make the server know what root/prefect.yaml holds; the name of the work pool that a worker here should poll.

    Raises:
        Unavailable: `prefect deploy` failed.
    """
    content = YAML(typ="safe").load(root / "prefect.yaml")
    pools = content["definitions"]["work_pools"]
    version = _version(root, content)
    wanted = {(deployment["name"], deployment["entrypoint"], version) for deployment in content["deployments"]}
    if not wanted <= _registered(client):
        for name, pool in pools.items():
            if client.get(f"/work_pools/{name}").status_code == httpx.codes.NOT_FOUND:
                # an empty template is filled in by the first worker, which knows its type's own
                client.post("/work_pools/", json={"name": name, **pool}).raise_for_status()
        create_automation(client)
        _deploy(client, root, version)
    return next(name for name, pool in pools.items() if pool["type"] == "process")


def start(
    client: httpx.Client, name: str, parameters: dict[str, Any] | None = None, tags: Sequence[str] = ()
) -> dict[str, Any]:
    """Have a worker begin a run of a deployment (FLOW/NAME) now; the run as the server tells of it."""
    deployment = client.get(f"/deployments/name/{name}").raise_for_status().json()
    wanted = {"parameters": parameters or {}, "state": {"type": "SCHEDULED"}, "tags": list(tags)}
    return client.post(f"/deployments/{deployment['id']}/create_flow_run", json=wanted).raise_for_status().json()


def _registered(client: httpx.Client) -> set[tuple[str, str, str]]:
    reply = client.post("/deployments/filter", json={}).raise_for_status()
    return {(known["name"], known["entrypoint"], known["version"]) for known in reply.json()}


def _version(root: Path, content: Any) -> str:
    flows = sorted({deployment["entrypoint"].partition(":")[0] for deployment in content["deployments"]})
    parts = [(root / name).read_bytes() for name in ["prefect.yaml", *flows]]
    return hashlib.sha256(b"\0".join([*parts, str(root).encode(), sys.executable.encode()])).hexdigest()[:12]


def _deploy(client: httpx.Client, root: Path, version: str) -> None:
    known = {"TSUMUGI_ROOT": str(root), "TSUMUGI_PYTHON": sys.executable, "TSUMUGI_VERSION": version}
    done = subprocess.run(
        [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all"],
        cwd=root,
        env=os.environ | known | {"PREFECT_API_URL": str(client.base_url).rstrip("/")},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise Unavailable(f"prefect.yaml was not registered: {' '.join((done.stderr or done.stdout).split())[-500:]}")
