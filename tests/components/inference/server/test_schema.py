"""Requests drawn from the server's own OpenAPI, right ones and wrong ones: none may break it."""

import contextlib
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode

pytestmark = pytest.mark.filterwarnings("ignore")  # of schemathesis and what it uses
EXAMPLES = 15  # of a route, right and wrong


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
def test_no_request_breaks_the_server(server: Any, mode: GenerationMode) -> None:
    schema = schemathesis.openapi.from_url(server.url + "/openapi.json")
    operations = [found.ok() for found in schema.get_all_operations()]
    assert len(operations) > 10
    for operation in operations:

        @settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck), database=None,
                  derandomize=True)  # fmt: skip
        @given(operation.as_strategy(generation_mode=mode))
        def check(case: Any) -> None:
            response = case.call(timeout=60)
            assert response.status_code < 500, f"{case.as_curl_command()}\n{response.text}"
            if response.status_code >= 400:
                assert response.json()["error"]["message"]

        with contextlib.suppress(Unsatisfiable):  # a route that takes nothing, or any text, cannot be asked wrongly
            check()
