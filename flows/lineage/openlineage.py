"""A lineage as OpenLineage events, for catalogues that a company already has: https://openlineage.io/spec/2-0-2.

One RunEvent COMPLETE a stage. A run's id is made of its command, parameters and input hashes, so that a stage that two
versions share is one run, and exporting twice tells nothing new. A dataset's version is its MD5 in dvc.lock.
"""

import json
import uuid
from pathlib import Path
from typing import Any

from components.data.durable import write_whole
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
        from openlineage.client import event_v2, facet_v2
    except ImportError as error:
        raise Refused(f"OpenLineage events need the extra `lineage` ({error}): pip install '.[lineage]'") from None

    event_v2.set_producer(PRODUCER)

    def dataset(kind: Any, place: str, digest: str) -> Any:
        version = facet_v2.dataset_version_dataset.DatasetVersionDatasetFacet(datasetVersion=digest)
        return kind(namespace=namespace, name=place, facets={"version": version} if digest else {})

    def event(step: Step) -> event_v2.RunEvent:
        parameters = [
            facet_v2.execution_parameters_run.ExecutionParameter(key=key, value=json.dumps(value, ensure_ascii=False))
            for key, value in step.params.items()
        ]
        run: dict[str, facet_v2.RunFacet] = {
            "executionParameters": facet_v2.execution_parameters_run.ExecutionParametersRunFacet(parameters=parameters)
        }
        job: dict[str, facet_v2.JobFacet] = {
            "jobType": facet_v2.job_type_job.JobTypeJobFacet(
                processingType="BATCH", integration="DVC", jobType="STAGE"
            ),
            "documentation": facet_v2.documentation_job.DocumentationJobFacet(
                description=step.description or step.command or step.name
            ),
            "sourceCodeLocation": facet_v2.source_code_location_job.SourceCodeLocationJobFacet(
                type="git", url=f"urn:git:{lineage.commit}", version=lineage.commit
            ),
        }
        return event_v2.RunEvent(
            eventType=event_v2.RunState.COMPLETE,
            eventTime=lineage.time,  # dvc.lock holds no times: that of the commit which recorded the run
            run=event_v2.Run(runId=run_id(step), facets=run),
            job=event_v2.Job(namespace=namespace, name=step.name, facets=job),
            inputs=[
                *(dataset(event_v2.InputDataset, file.path, file.hash) for file in step.inputs),
                *(dataset(event_v2.InputDataset, url, "") for url in step.urls),
            ],
            outputs=[dataset(event_v2.OutputDataset, file.path, file.hash) for file in step.outputs],
        )

    return [event(step) for step in lineage.steps]


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
