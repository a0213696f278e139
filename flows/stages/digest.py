"""The page of the study's small selection that the demo measures: reports/digest/digest.html. A second."""

from flows.stages.runtime import start
from flows.stages.study import Params, cost, run

__all__ = ["Params", "cost", "run"]

if __name__ == "__main__":
    start(__file__, Params, cost, run)
