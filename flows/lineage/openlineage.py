"""A lineage as OpenLineage events, for catalogues that a company already has: https://openlineage.io/spec/2-0-2.

One RunEvent COMPLETE a stage. A run's id is made of its command, parameters and input hashes, so that a stage that two
versions share is one run, and exporting twice tells nothing new. A dataset's version is its MD5 in dvc.lock.
"""

import json
import uuid
from pathlib import Path
from typing import Any

from components.durable import write_whole
from flows.lineage.trace import Lineage
from flows.releases.recorded import Step
from flows.workspace import Refused

PRODUCER = "urn:tsumugi:lineage"  # a URI; a fork that has an address may say it here


def events(lineage: Lineage, namespace: str = "tsumugi") -> list[Any]:
    """openlineage.client.event_v2.RunEvent of each stage of the chain, upstream first.

    Raises:
        Refused: openlineage-python is not installed.
    """
    try:
        from openlineage.client import event_v2
    except ImportError as error:
        raise Refused(f"OpenLineage events need the extra `lineage` ({error}): pip install '.[lineage]'") from None

    event_v2.set_producer(PRODUCER)
    return [_event(lineage, namespace, step) for step in lineage.steps]


def _event(lineage: Lineage, namespace: str, step: Step) -> Any:
    from openlineage.client import event_v2

    def dataset(kind: Any, place: str, digest: str) -> Any:
        return kind(namespace=namespace, name=place, facets=_version(digest) if digest else {})

    return event_v2.RunEvent(
        eventType=event_v2.RunState.COMPLETE,
        eventTime=lineage.time,  # dvc.lock holds no times: that of the commit which recorded the run
        run=event_v2.Run(runId=run_id(step), facets=_run(step)),
        job=event_v2.Job(namespace=namespace, name=step.name, facets=_job(step, lineage.commit)),
        inputs=[
            *(dataset(event_v2.InputDataset, file.path, file.hash) for file in step.inputs),
            *(dataset(event_v2.InputDataset, url, "") for url in step.urls),
        ],
        outputs=[dataset(event_v2.OutputDataset, file.path, file.hash) for file in step.outputs],
    )


def _version(digest: str) -> dict[str, Any]:
    from openlineage.client.facet_v2 import dataset_version_dataset as facet

    return {"version": facet.DatasetVersionDatasetFacet(datasetVersion=digest)}


def _run(step: Step) -> dict[str, Any]:
    from openlineage.client.facet_v2 import execution_parameters_run as facet

    values = {key: json.dumps(value, ensure_ascii=False) for key, value in step.params.items()}
    parameters = [facet.ExecutionParameter(key=key, value=value) for key, value in values.items()]
    return {"executionParameters": facet.ExecutionParametersRunFacet(parameters=parameters)}


def _job(step: Step, commit: str) -> dict[str, Any]:
    from openlineage.client import facet_v2

    kind, about, code = facet_v2.job_type_job, facet_v2.documentation_job, facet_v2.source_code_location_job
    said = step.description or step.command or step.name
    return {
        "jobType": kind.JobTypeJobFacet(processingType="BATCH", integration="DVC", jobType="STAGE"),
        "documentation": about.DocumentationJobFacet(description=said),
        "sourceCodeLocation": code.SourceCodeLocationJobFacet(type="git", url=f"urn:git:{commit}", version=commit),
    }


def run_id(step: Step) -> str:
    """The same for the same command with the same parameters on the same inputs."""
    inputs = [(file.path, file.hash) for file in step.inputs]
    return str(uuid.uuid5(uuid.NAMESPACE_URL, json.dumps([step.name, step.command, step.params, inputs])))


def write(lineage: Lineage, path: Path) -> None:
    """The events as JSON lines, in a file that is whole or not there."""
    from openlineage.client.serde import Serde

    lines = [Serde.to_json(event) + "\n" for event in events(lineage)]
    write_whole(path, "".join(lines).encode())


def send(lineage: Lineage, url: str) -> int:
    """POST the events to `URL/api/v1/lineage`; how many.

    Raises:
        Refused: nobody takes them there.
    """
    some = events(lineage)
    from openlineage.client.transport.http import HttpConfig, HttpTransport
    from requests import RequestException

    transport = HttpTransport(HttpConfig(url=url, retry={"total": 2, "backoff_factor": 0.3}))
    try:
        for event in some:
            transport.emit(event)
    except (RequestException, ValueError) as error:
        raise Refused(f"{url} took no lineage: {error}: is it an OpenLineage server's address?") from error
    finally:
        transport.close()
    return len(some)
