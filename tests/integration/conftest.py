"""Both services as processes, shared by the tests of a module."""

from collections.abc import Iterator

import pytest

from benchmarks.common.running import run_local_stack
from tests.integration.services import Services


@pytest.fixture(scope="module")
def services() -> Iterator[Services]:
    with (
        run_local_stack("open", {"ALLOWED_BUCKETS": "second-bucket"}) as stack,
        Services(stack) as services,
    ):
        services.s3.create_bucket(
            Bucket="second-bucket",
            CreateBucketConfiguration={"LocationConstraint": services.environment["AWS_DEFAULT_REGION"]},
        )
        yield services
