"""Score the people of a `groups.json` against a labelled album: one line of JSON.

A labelled face counts as detected when its centre lies in a box of its photo; every box counts for one labelled face at
most. A labelled face that was not detected, and one that was detected and is unassigned, counts as a person of its own.
Detected faces without a label are counted as false and not scored further.
"""

import argparse
import csv
import json
import math
import sys
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import ValidationError
from scipy.optimize import linear_sum_assignment

from app.grouping import output
from app.grouping.output import Groups
from benchmarks.common.command import UnusableInput
from workshop.scores import score_bcubed, score_pairwise

# Far beyond any distance within a photo: a pairing outside the box is taken only where no other is left.
OUTSIDE_PX = 1e9


@dataclass(frozen=True)
class LabelledFace:
    """A face that someone has named. The centre is in pixels of the upright photo."""

    image_id: str
    person: str
    center_px: tuple[float, float]


@dataclass(frozen=True)
class FoundFace:
    """A face of the groups and the number of its group; unassigned faces have a number each."""

    image_id: str
    group: int
    box: tuple[float, float, float, float]


def main(arguments: Sequence[str] | None = None) -> int:
    """Score the files named on the command line; the exit code is 2 where one of them can't be used."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks album", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--groups", type=Path, required=True, help="groups.json whose image ids are photo names without their ending"
    )
    parser.add_argument(
        "--labels", type=Path, required=True, help="CSV: photo, person, face_center_x_px, face_center_y_px"
    )
    options = parser.parse_args(arguments)
    try:
        figures = score_album(read_groups(options.groups), read_labels(options.labels))
    except UnusableInput as error:
        print(error, file=sys.stderr)
        return 2
    print(json.dumps({name: round(value, 4) for name, value in figures.items()}))
    return 0


def score_album(groups: Groups, labelled: Sequence[LabelledFace]) -> dict[str, float]:
    """The groups and the album's labelled faces (one at least) → figures by name."""
    return {
        **score_faces(labelled, list_found_faces(groups)),
        "people_found": len(groups.people),
        "people_labelled": len({face.person for face in labelled}),
    }


def score_faces(labelled: Sequence[LabelledFace], found: Sequence[FoundFace]) -> dict[str, float]:
    """Labelled faces (one at least), found faces → the figures by name. Group numbers are below the number of faces."""
    matches = match_faces(labelled, found)
    # A face that was not detected is a group of its own, with a number above those of the groups.
    predicted = np.array(
        [found[matches[row]].group if row in matches else len(found) + row for row in range(len(labelled))], np.int64
    )
    people = [face.person for face in labelled]
    by_face, by_pair = score_bcubed(people, predicted), score_pairwise(people, predicted)
    return {
        "bcubed_f": by_face.f,
        "bcubed_precision": by_face.precision,
        "bcubed_recall": by_face.recall,
        "pairwise_f": by_pair.f,
        "pairwise_precision": by_pair.precision,
        "pairwise_recall": by_pair.recall,
        "labelled_faces": len(labelled),
        "found_faces": len(matches),
        "false_faces": len(found) - len(matches),
    }


def list_found_faces(groups: Groups) -> list[FoundFace]:
    """All faces of the groups; group numbers are below the number of faces."""
    alone = [[face] for face in groups.unassigned]
    sets = [person.faces for person in groups.people if person.faces] + alone
    return [FoundFace(face.image_id, number, face.box) for number, faces in enumerate(sets) for face in faces]


def match_faces(labelled: Sequence[LabelledFace], found: Sequence[FoundFace]) -> dict[int, int]:
    """Labelled faces, detected faces → position of the labelled face → position of its detected face, if it has one.

    In each photo as many labelled faces as possible are matched; of all such matchings, the one with the least sum of
    distances between the label and the middle of the box.
    """
    labelled_in = _list_positions_by_photo(face.image_id for face in labelled)
    found_in = _list_positions_by_photo(face.image_id for face in found)
    matches: dict[int, int] = {}
    for image_id in labelled_in.keys() & found_in.keys():
        names, faces = labelled_in[image_id], found_in[image_id]
        costs = np.array([[_compute_distance_px(labelled[name], found[face]) for face in faces] for name in names])
        for row, column in zip(*linear_sum_assignment(costs), strict=True):
            if costs[row, column] < OUTSIDE_PX:
                matches[names[row]] = faces[column]
    return matches


def read_groups(path: Path) -> Groups:
    """Read a groups.json, and the files beside it that it names. Raises UnusableInput."""
    try:
        return output.read_groups(path.read_bytes(), lambda name: (path.parent / name).read_bytes())
    except OSError as error:
        raise UnusableInput(f"The groups can't be read: {error}.") from error
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"][1:])) or "the file"  # The first is the version.
        raise UnusableInput(f"{path} is not a groups.json: {place}: {first['msg']}.") from error


def read_labels(path: Path) -> list[LabelledFace]:
    """Read a labels.csv. A photo's image id is its name without the ending. Raises UnusableInput."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            labelled = [_read_label_row(row) for row in csv.DictReader(file)]
    except KeyError as error:
        raise UnusableInput(f"{path} has no column {error}.") from error
    except (TypeError, ValueError) as error:  # a short line, a word for a number, bytes that are not UTF-8
        raise UnusableInput(f"{path} holds a line that is no labelled face: {error}.") from error
    except OSError as error:
        raise UnusableInput(f"The labels can't be read: {error}.") from error
    if not labelled:
        raise UnusableInput(f"{path} labels no face.")
    return labelled


def _read_label_row(row: dict[str, str]) -> LabelledFace:
    center_px = (float(row["face_center_x_px"]), float(row["face_center_y_px"]))
    return LabelledFace(Path(row["photo"]).stem, row["person"], center_px)


def _compute_distance_px(labelled: LabelledFace, found: FoundFace) -> float:
    """The distance from the labelled centre to the middle of the box; OUTSIDE_PX where the centre is not in the box."""
    (x, y), (left, top, right, bottom) = labelled.center_px, found.box
    if not (left <= x <= right and top <= y <= bottom):
        return OUTSIDE_PX
    return math.hypot(x - (left + right) / 2, y - (top + bottom) / 2)


def _list_positions_by_photo(image_ids: Iterable[str]) -> dict[str, list[int]]:
    positions: dict[str, list[int]] = defaultdict(list)
    for position, image_id in enumerate(image_ids):
        positions[image_id].append(position)
    return positions


if __name__ == "__main__":
    sys.exit(main())
