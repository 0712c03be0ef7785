"""A store that is away for ten seconds costs time, and nothing else."""

import time
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest

from benchmarks.common.running import run_local_stores
from tests.integration.proxy import Proxy
from tests.integration.services import Services
from tests.integration.test_bad_input import astronaut

pytestmark = pytest.mark.slow
OUTAGE_S = 10.0
PHOTOS = 4


@pytest.fixture(scope="module")
def behind_proxies() -> Iterator[tuple[Services, dict[str, Proxy]]]:
    """Services that reach S3 and MongoDB through proxies; the tests themselves go straight."""
    with run_local_stores() as stack, Services(stack) as straight:
        s3_port = urlsplit(straight.environment["AWS_ENDPOINT_URL"]).port
        mongo_port = urlsplit(straight.environment["GALLERY_IMAGES_MONGO_URI"]).port
        with Proxy(s3_port) as s3, Proxy(mongo_port) as mongo:
            stack.state.environment["AWS_ENDPOINT_URL_S3"] = f"http://127.0.0.1:{s3.port}"
            # Without directConnection the driver would ask the server for its own address and go there.
            uri = f"mongodb://127.0.0.1:{mongo.port}"
            stack.state.environment["GALLERY_IMAGES_MONGO_URI"] = f"{uri}/gallery_images?directConnection=true"
            stack.state.environment["HUEMN_MONGO_URI"] = f"{uri}/huemn?directConnection=true"
            stack.start("open")
            yield straight, {"s3": s3, "mongo": mongo}


@pytest.mark.parametrize("store", ["s3", "mongo"])
def test_a_store_away_for_ten_seconds_loses_no_photo(
    behind_proxies: tuple[Services, dict[str, Proxy]], store: str
) -> None:
    services, proxies = behind_proxies
    gallery = f"outage-{store}"
    services.send_photo(gallery, "0", astronaut())
    services.image(gallery, "0")

    proxies[store].go_away()
    for number in range(1, PHOTOS):
        services.send_photo(gallery, str(number), astronaut())
    time.sleep(OUTAGE_S)
    refused = proxies[store].refused
    proxies[store].come_back()

    groups = services.grouped(gallery, photos=PHOTOS)
    assert refused > 0, "the outage was not felt, so nothing was shown"
    assert [(person["face_count"], person["photo_count"]) for person in groups["people"]] == [(PHOTOS, PHOTOS)]
    services.stack.check_services()
