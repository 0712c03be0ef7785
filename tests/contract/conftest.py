"""The server of `stores`, for tests that connect to it by themselves."""

import pytest

from tests.stores import Stores


@pytest.fixture
def mongo_uri(stores: Stores) -> str:
    """URI of the server of `stores`, without a database name."""
    assert stores.database is not None
    host, port = stores.database.client.address or ("", 0)
    return f"mongodb://{host}:{port}"
