"""Runs that nobody runs any more: they would stay Running for ever, and hold the only slot of their deployment.

A person's `tsumugi stop` cancels what still runs before it stops the worker. A machine that went down could not; when
server and worker of this checkout both have to be started anew, what its database calls running has lost its process.
"""

import time
from typing import Any

import httpx

ALIVE = ("RUNNING", "PENDING", "CANCELLING")  # states that hold a slot; https://docs.prefect.io/v3/concepts/states
PATIENCE = 30.0  # seconds that a cancelled run gets to end its stages


def cancel(client: httpx.Client) -> list[str]:
    """Cancel every run that a deployment has under way, and wait until they have ended; their names."""
    runs = _alive(client)
    for run in runs:
        _set(client, run, {"type": "CANCELLING", "message": "the worker was stopped"}, force=False)
    end = time.monotonic() + PATIENCE
    while _alive(client) and time.monotonic() < end:
        time.sleep(0.5)
    for run in _alive(client):
        _set(client, run, {"type": "CANCELLED", "message": "the worker was stopped"}, force=True)
    return [run["name"] for run in runs]


def crash(client: httpx.Client) -> list[str]:
    """Mark every run that a deployment has under way as Crashed; their names."""
    runs = _alive(client)
    for run in runs:
        _set(client, run, {"type": "CRASHED", "message": "the server and the worker went away"}, force=True)
    return [run["name"] for run in runs]


def _alive(client: httpx.Client) -> list[dict[str, Any]]:
    query = {"flow_runs": {"state": {"type": {"any_": ALIVE}}, "deployment_id": {"is_null_": False}}}
    return client.post("/flow_runs/filter", json=query).raise_for_status().json()


def _set(client: httpx.Client, run: dict[str, Any], state: dict[str, str], force: bool) -> None:
    client.post(f"/flow_runs/{run['id']}/set_state", json={"state": state, "force": force}).raise_for_status()
