"""Amazon DocumentDB is refused, by its name and by what it answers, and no other server is."""

from unittest.mock import MagicMock

import pytest
from pymongo import MongoClient

from app.adapters.mongo import Document, refuse_documentdb
from app.core.errors import BadConfiguration
from tests.stores import ON_SERVERS, Stores

SENTENCE = r"^GALLERY_IMAGES_MONGO_URI leads to Amazon DocumentDB, .* use MongoDB Atlas, or a replica set"


@ON_SERVERS
def test_a_server_with_what_the_services_need_is_not_refused(stores: Stores) -> None:
    refuse_documentdb(stores.database, "GALLERY_IMAGES_MONGO_URI")


# The driver warns by itself; the services write warnings nowhere.
@pytest.mark.filterwarnings("ignore:You appear to be connected to a DocumentDB cluster")
@pytest.mark.parametrize(
    "host",
    [
        "faces.cluster-abc123.eu-central-1.docdb.amazonaws.com",
        "faces-1234.eu-central-1.docdb-elastic.amazonaws.com",
        "faces.cluster-abc123.docdb.amazonaws.com.cn",
    ],
)
def test_documentdb_is_refused_by_its_name_without_a_connection(host: str) -> None:
    with (
        MongoClient[Document](f"mongodb://{host}:27017/", connect=False) as client,
        pytest.raises(BadConfiguration, match=SENTENCE),
    ):
        refuse_documentdb(client["gallery_images"], "GALLERY_IMAGES_MONGO_URI")


def test_documentdb_is_refused_behind_a_tunnel_by_what_it_alone_answers() -> None:
    database = MagicMock()
    database.client.topology_description.server_descriptions.return_value = {("127.0.0.1", 27017): None}
    database.client.admin.command.return_value = {"engineVersion": "5.0.0", "ok": 1.0}
    with pytest.raises(BadConfiguration, match=SENTENCE):
        refuse_documentdb(database, "GALLERY_IMAGES_MONGO_URI")
    database.client.admin.command.assert_called_once_with("getEngineVersion")
