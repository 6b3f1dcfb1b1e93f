"""The OpenAPI document, and requests of all kinds made from it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import ignored_auth, positive_data_acceptance
from starlette.testclient import TestClient

from serving.http import HttpSettings, create_app
from tests.http_engine import FakeEngine, write_keys

BEYOND_SCHEMA = {  # of these bodies the document cannot say all: a prompt may lack its [V], a size be no square
    "POST /v1/images/generations",
    "POST /v1/subjects",
    "POST /sdapi/v1/txt2img",
    "POST /sdapi/v1/options",
}
WITHOUT_KEY = {"GET /health", "GET /ready"}


@pytest.fixture(scope="module")
def app() -> Any:
    return create_app(FakeEngine(step_s=0.0, learn_s=0.0), HttpSettings(host="0.0.0.0"))


@pytest.fixture(scope="module")
def keyed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, str]:
    """The document of a server with keys, and a key."""
    path, keys = write_keys(tmp_path_factory.mktemp("keys"), "ann")
    app = create_app(FakeEngine(step_s=0.0, learn_s=0.0), HttpSettings(host="0.0.0.0", keys=path))
    return schemathesis.openapi.from_asgi("/openapi.json", app), keys["ann"]


@pytest.fixture(scope="module")
def schema(app: Any) -> Any:
    return schemathesis.openapi.from_asgi("/openapi.json", app)


def test_the_document_names_every_route_and_the_error_object(app: Any) -> None:
    document = TestClient(app).get("/openapi.json").json()
    assert set(document["paths"]) == {
        "/health",
        "/metrics",
        "/ready",
        "/sdapi/v1/interrupt",
        "/sdapi/v1/loras",
        "/sdapi/v1/options",
        "/sdapi/v1/progress",
        "/sdapi/v1/samplers",
        "/sdapi/v1/sd-models",
        "/sdapi/v1/txt2img",
        "/v1/images/generations",
        "/v1/models",
        "/v1/models/{model}",
        "/v1/subjects",
        "/v1/subjects/{name}",
        "/v1/subjects/{name}/events",
    }
    for path in document["paths"].values():
        for operation in path.values():
            assert "422" not in operation["responses"]
            found = operation["responses"]["400"]["content"]["application/json"]["schema"]["$ref"]
            assert found == "#/components/schemas/ErrorObject"


@pytest.mark.parametrize("mode", list(GenerationMode))
def test_requests_made_from_the_document_find_no_fault(schema: Any, mode: GenerationMode) -> None:
    def find_fault(case: Any) -> None:
        case.call_and_validate(excluded_checks=_beyond(case))

    tried = {result.ok().label for result in schema.get_all_operations() if _try_out(result.ok(), mode, find_fault)}
    assert {"POST /v1/images/generations", "POST /v1/subjects", "POST /sdapi/v1/txt2img"} <= tried
    if mode is GenerationMode.POSITIVE:
        assert len(tried) == sum(1 for _ in schema.get_all_operations())


def test_with_a_key_all_goes_as_without_keys_and_without_it_nothing_does(keyed: tuple[Any, str]) -> None:
    schema, key = keyed
    seen: Counter[tuple[str, int]] = Counter()

    def find_fault(case: Any) -> None:
        refused = case.call(headers={"Authorization": "Bearer nobody's"})
        case.validate_response(refused, excluded_checks=[*_beyond(case), positive_data_acceptance, ignored_auth])
        seen[case.operation.label, refused.status_code] += 1
        case.call_and_validate(headers={"Authorization": f"Bearer {key}"}, excluded_checks=_beyond(case))

    operations = [result.ok() for result in schema.get_all_operations()]
    assert all(_try_out(operation, GenerationMode.POSITIVE, find_fault) for operation in operations)
    expected = {(one.label, 200 if one.label in WITHOUT_KEY else 401) for one in operations}
    assert set(seen) == expected


def _beyond(case: Any) -> list[Any]:
    """The checks that do not hold for a request."""
    return [positive_data_acceptance] if case.operation.label in BEYOND_SCHEMA else []


def _try_out(operation: Any, mode: GenerationMode, find_fault: Callable[[Any], None]) -> bool:
    """Make requests; False where none can be made: what takes nothing, or any text, cannot be asked wrongly."""

    @given(operation.as_strategy(generation_mode=mode))
    @settings(max_examples=5, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    def check(case: Any) -> None:
        find_fault(case)

    try:
        check()
    except Unsatisfiable:
        return False
    return True
