"""Which module knows the requests and the quality of a kind of model. The one asked for is imported, and no other."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from components.inference.server.served import Kind


def workload(kind: "Kind") -> Any:
    """The module of this folder: PART, METRIC, BETTER, ITEMS, requests(), batch() and quality()."""
    if kind == "classifier":
        from flows.stages.workloads import classifier as module
    elif kind == "search":
        from flows.stages.workloads import search as module
    elif kind == "recogniser":
        from flows.stages.workloads import recogniser as module
    else:
        from flows.stages.workloads import decoder as module
    return module
