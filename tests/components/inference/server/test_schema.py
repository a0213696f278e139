"""Requests drawn from the server's own OpenAPI, right ones and wrong ones: none may break it."""

from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.checks import not_a_server_error

pytestmark = pytest.mark.filterwarnings("ignore")  # of schemathesis and what it uses


@pytest.fixture(scope="module")
def api(server: Any) -> Any:
    return schemathesis.openapi.from_url(server.url + "/openapi.json")


schema = schemathesis.pytest.from_fixture("api")


@schema.parametrize()
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True, database=None)
def test_no_request_breaks_the_server(case: Any) -> None:
    response = case.call(timeout=60)
    not_a_server_error(None, response, case)
    if response.status_code >= 400:
        assert response.json()["error"]["message"]
