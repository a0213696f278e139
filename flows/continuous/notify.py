"""How a retraining ended, told to people and programs: an event of Prefect, and a POST where an address is given."""

from typing import Any

import httpx
from prefect.events import emit_event

SECONDS = 10.0  # that an address may take to answer


def resource(name: str) -> dict[str, str]:
    """A model as events name it; triggers match it by `tsumugi.model.*`."""
    return {"prefect.resource.id": f"tsumugi.model.{name}", "prefect.resource.name": name}


def tell(name: str, outcome: dict[str, Any], address: str) -> str:
    """Tell the outcome; what an address had against it, empty where all went well. Nobody's deafness ends a run."""
    emit_event("tsumugi.retraining.ended", resource(name), payload=outcome)
    if not address:
        return ""
    try:
        httpx.post(address, json=outcome, timeout=SECONDS).raise_for_status()
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        return f"{address} was not told: {error}"
    return ""
