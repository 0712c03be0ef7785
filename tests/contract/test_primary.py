"""Whatever the URI asks for, what decides is read from the primary, and as a majority has it."""

from collections.abc import Iterator
from functools import partial
from typing import Any
from uuid import uuid4

import pytest
from pymongo import MongoClient
from pymongo.monitoring import CommandFailedEvent, CommandListener, CommandStartedEvent, CommandSucceededEvent

from app.adapters.mongo import Document, MongoDatabase, ensure_indexes, open_database, ping
from app.adapters.mongo_edits import MongoPeopleEditor
from app.adapters.mongo_faces import MongoFaceStore
from app.adapters.mongo_galleries import MongoGalleryStore, MongoOwnerMetadata
from app.adapters.mongo_journal import MongoEditJournal
from app.adapters.mongo_people import MongoPeopleStore
from app.core.journal import make_edit
from app.core.messages import EditPeople
from app.core.people_edits import decide_edit
from app.core.records import FaceMove, PersonRecord, PersonStatus
from tests.stores import MODEL, ON_SERVERS, photo, photo_result

READS = {"find", "aggregate", "distinct", "count"}


class Commands(CommandListener):
    """The commands that were sent."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, dict[str, Any]]] = []

    def started(self, event: CommandStartedEvent) -> None:
        self.sent.append((event.command_name, dict(event.command)))

    def succeeded(self, event: CommandSucceededEvent) -> None: ...

    def failed(self, event: CommandFailedEvent) -> None: ...


pytestmark = ON_SERVERS


@pytest.fixture
def commands() -> Commands:
    return Commands()


@pytest.fixture(params=["secondary", "secondaryPreferred", "nearest"])
def database(
    request: pytest.FixtureRequest, mongo_uri: str, commands: Commands, monkeypatch: pytest.MonkeyPatch
) -> Iterator[MongoDatabase]:
    """A database whose URI asks for secondaries, and for writes and reads of one member."""
    monkeypatch.setattr("app.adapters.mongo.MongoClient", partial(MongoClient[Document], event_listeners=[commands]))
    options = f"readPreference={request.param}&readConcernLevel=local&w=1"
    name = f"test_{uuid4().hex}"
    database = open_database(f"{mongo_uri}/{name}?{options}&maxStalenessSeconds=120", "x", "SOME_URI")
    with database.client:
        yield database
        database.client.drop_database(name)


def use_everything(database: MongoDatabase) -> None:
    """One call of each method that the services decide by."""
    faces, galleries, people = MongoFaceStore(database), MongoGalleryStore(database), MongoPeopleStore(database)
    ensure_indexes(database)
    ping(database)
    result = photo_result(photo())
    assert faces.save_photos([result]).overtaken == []
    assert faces.find_image(photo())
    faces.find_twins(["content"], MODEL)
    faces.find_other_model("g", MODEL)
    claim = galleries.mark_dirty("g", 0)
    assert claim
    galleries.note_sent(claim, 0)
    assert galleries.claim_message("g", 0)
    galleries.claim_overdue()
    lease = galleries.take_lease("g", "me", 60)
    assert lease
    (batch,) = faces.read_faces("g", MODEL)
    faces.read_embeddings(batch.face_ids)
    list(faces.read_images("g"))
    people.read_people(lease)
    (face,) = batch.face_ids
    people.write_people(
        lease, [PersonRecord("p1", face, 1, 1, None, PersonStatus.ACTIVE, None)], [FaceMove(face, None, "p1")]
    )
    people.publish_people(lease)
    galleries.record_run(lease, MODEL, {})
    named = {"op": "name", "person_id": "p1", "name": "Ann"}
    order = EditPeople.model_validate({"gallery_id": "g", "edit_id": "e", "by": "Eve", "edits": [named]})
    journal = MongoEditJournal(database)
    edit = journal.add(make_edit(order))
    MongoPeopleEditor(database).apply_edit(lease, edit, partial(decide_edit, edit))
    journal.list_unsettled("g")
    journal.settle(edit)
    assert journal.find("g", "e")
    galleries.release(lease)
    assert galleries.find_gallery("g")
    MongoOwnerMetadata(database).set_face_indexes([result.image])


def test_no_command_asks_a_secondary(database: MongoDatabase, commands: Commands) -> None:
    use_everything(database)
    assert len(commands.sent) > 30
    asked = {name: preference for name, command in commands.sent if (preference := command.get("$readPreference"))}
    assert asked == {}


def test_reads_and_writes_are_those_of_a_majority(database: MongoDatabase, commands: Commands) -> None:
    use_everything(database)
    alone = [(name, command) for name, command in commands.sent if "txnNumber" not in command]
    read = [command.get("readConcern", {}).get("level") for name, command in alone if name in READS]
    assert set(read) == {"majority"}
    written = [command.get("writeConcern") for name, command in commands.sent if name in ("update", "findAndModify")]
    assert {str(concern) for concern in written if concern} == {"{'w': 'majority'}"}
