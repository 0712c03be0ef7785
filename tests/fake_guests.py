"""In-memory stand-in for what guests see of people."""

from collections.abc import Sequence

from app.core.ports import GuestFaces, SeenFace
from app.core.records import PersonStatus
from tests.fake_stores import FakeFaceStore, FakePeopleStore
from tests.fakes import Outages


class FakeGuestReader(Outages):
    """`hidden` are (gallery, person)."""

    def __init__(self, faces: FakeFaceStore, people: FakePeopleStore) -> None:
        super().__init__()
        self.hidden: set[tuple[str, str]] = set()
        self._faces, self._people = faces, people

    def read_guest(
        self, gallery_id: str, model_id: str, person_ids: Sequence[str], face_ids: Sequence[str]
    ) -> GuestFaces:
        self._pass("read_guest")
        known = {person.person_id: person for person in self._people.published(gallery_id)}
        people = {}
        for person_id in person_ids:
            person = known.get(person_id)
            if person and person.merged_into:
                person = known.get(person.merged_into)
            if person and person.status is PersonStatus.ACTIVE and (gallery_id, person.person_id) not in self.hidden:
                people[person_id] = person.person_id
        faces = []
        for face in self._faces.faces.values():
            owner = self._faces.person_of.get(face.face_id)
            image = self._faces.images.get(f"{gallery_id}/{face.image_id}")
            is_wanted = owner in people.values() or (owner is None and face.face_id in face_ids)
            if (face.gallery_id, face.model_id) == (gallery_id, model_id) and is_wanted and image:
                box = tuple(float(value) for value in face.box)
                faces.append(
                    SeenFace(face.face_id, owner, face.image_id, image.photo.key, box, face.embedding)  # type: ignore[arg-type]
                )
        return GuestFaces(people, faces)
