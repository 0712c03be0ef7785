"""Other projects' methods from embeddings to people, implemented here from what the projects publish.

All use the cosine distance, 1 less the cosine; for unit vectors a Euclidean distance r is a cosine distance of r²/2.
The projects' own settings (`published`) and their sources:

dbscan            scikit-learn's defaults: 5 points within a euclidean 0.5.
hdbscan           scikit-learn's defaults: at least 5 faces a person. It has no distance to set.
chinese_whispers  Biemann, "Chinese Whispers: an efficient graph clustering algorithm" (TextGraphs 2006), in random
                  order from a fixed seed, as dlib's. dlib's face_clustering.py connects faces that are closer than a
                  euclidean 0.5, of descriptors whose length is 1.44 (measured on LFW). Whether dlib resolves ties as
                  here isn't known.
average_linkage   scipy. No project publishes a setting for it.
immich            docs.immich.app, pull requests 5598, 6634, 7689: a face is a core face if 3 faces, itself among them,
                  are within a distance of 0.5. Core faces come first: each joins the nearest face that has a person, or
                  becomes a new person; then each other face joins such a face or stays unassigned.
photoprism        docs.photoprism.app and its developers' notes: DBSCAN with 4 faces within a euclidean 0.64; a noise
                  face joins the cluster with the nearest centre, if that is within the cluster's radius, at most 0.42,
                  plus 0.46. Its bars on a face's size and quality are left out. In the search for the best setting
                  both distances are scaled with DBSCAN's.
ente              the mobile app's constants: each face, in order, joins the person of its nearest earlier face within
                  0.24, or becomes a new person. Its 0.16 for poor faces is left out. Its order is that of the photos'
                  times; here it is that of the rows. Its later merging of clusters isn't known in detail and is left
                  out.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import squareform
from sklearn.cluster import DBSCAN, HDBSCAN

Floats = NDArray[np.float32]
Labels = NDArray[np.int64]

UNASSIGNED = -1
SEED, MAX_SWEEPS = 0, 100
"""100 sweeps are dlib's default."""
BLOCK_ROWS = 1024

DLIB_LENGTH, DLIB_EUCLIDEAN = 1.44, 0.5
PHOTOPRISM_EUCLIDEAN, PHOTOPRISM_MAX_RADIUS, PHOTOPRISM_OFFSET = 0.64, 0.42, 0.46


@dataclass(frozen=True)
class Setting:
    """A cosine `distance`, None where a method has none, and how many faces make a `core`."""

    distance: float | None
    core: int = 1


Method = Callable[[Setting], Labels]
"""A setting → (N,) int64 labels, -1 for unassigned faces."""


@dataclass(frozen=True)
class Baseline:
    """`prepare` does once what all settings need; `cores` are tried in the search for the best setting."""

    prepare: Callable[[Floats], Method]
    published: Setting | None
    cores: tuple[int, ...] = (1,)
    needs_matrix: bool = False


def find_near_pairs(embeddings: Floats, distance: float) -> sparse.csr_array:
    """(N,D) unit vectors → (N,N) sparse cosines of those other faces that are within a cosine distance."""
    rows, columns, cosines = [], [], []
    for begin in range(0, len(embeddings), BLOCK_ROWS):
        block = embeddings[begin : begin + BLOCK_ROWS] @ embeddings.T
        block[np.arange(len(block)), np.arange(begin, begin + len(block))] = -np.inf
        row, column = np.nonzero(block >= 1 - distance)
        rows.append(row + begin)
        columns.append(column)
        cosines.append(block[row, column])
    shape = (len(embeddings), len(embeddings))
    entries = (np.concatenate(cosines), (np.concatenate(rows), np.concatenate(columns)))
    return sparse.csr_array(entries, shape=shape)


class NearPairs:
    """The near pairs of one gallery, (N,D) unit vectors. A search is made only for a larger distance than before."""

    def __init__(self, embeddings: Floats) -> None:
        self._embeddings = embeddings
        self._distance = -np.inf
        self._graph: sparse.csr_array | None = None

    def find(self, distance: float) -> sparse.csr_array:
        """As `find_near_pairs`."""
        if self._graph is None or distance > self._distance:
            self._graph, self._distance = find_near_pairs(self._embeddings, distance), distance
        graph = self._graph
        kept = graph.data >= 1 - distance
        begins = np.r_[0, np.cumsum(kept)][graph.indptr]
        return sparse.csr_array((graph.data[kept], graph.indices[kept], begins), shape=graph.shape)


def prepare_dbscan(embeddings: Floats) -> Method:
    """(N,D) unit vectors → scikit-learn's DBSCAN on all distances: its trees are slower in 128 dimensions."""
    return lambda setting: _run_dbscan(embeddings, _get_distance(setting), setting.core)


def prepare_hdbscan(embeddings: Floats) -> Method:
    """(N,D) unit vectors → scikit-learn's HDBSCAN on the matrix of all distances: its trees are slow in 128 dimensions.

    `core` is the smallest number of faces of a person.
    """

    def method(setting: Setting) -> Labels:
        fitted = HDBSCAN(min_cluster_size=setting.core, algorithm="brute", copy=False).fit(embeddings)
        return np.asarray(fitted.labels_, np.int64)

    return method


def prepare_chinese_whispers(embeddings: Floats) -> Method:
    """(N,D) unit vectors → every face takes the label that most of its near faces have, of equal ones the lowest."""

    pairs = NearPairs(embeddings)

    def method(setting: Setting) -> Labels:
        graph = pairs.find(_get_distance(setting))
        generator = np.random.default_rng(SEED)
        labels = np.arange(len(embeddings))
        connected = np.flatnonzero(np.diff(graph.indptr))
        for _ in range(MAX_SWEEPS):
            before = labels.copy()
            for face in generator.permutation(connected):
                their_labels = labels[graph.indices[graph.indptr[face] : graph.indptr[face + 1]]]
                names, counts = np.unique(their_labels, return_counts=True)
                labels[face] = names[counts.argmax()]
            if np.array_equal(before, labels):
                break
        return labels

    return method


def prepare_average_linkage(embeddings: Floats) -> Method:
    """(N,D) unit vectors → scipy's tree of mean cosine distances, which is built once and cut at each distance."""
    distances = np.maximum(1 - embeddings @ embeddings.T, 0)
    np.fill_diagonal(distances, 0)
    tree = linkage(squareform(distances, checks=False), "average")
    return lambda setting: np.asarray(fcluster(tree, _get_distance(setting), "distance"), np.int64)


def prepare_immich(embeddings: Floats) -> Method:
    """(N,D) unit vectors → Immich's rule: core faces form people, the others join one or stay unassigned."""

    pairs = NearPairs(embeddings)

    def method(setting: Setting) -> Labels:
        graph = pairs.find(_get_distance(setting))
        is_core = np.diff(graph.indptr) + 1 >= setting.core
        people = np.full(len(embeddings), UNASSIGNED, np.int64)
        for face in np.argsort(~is_core, kind="stable"):
            edges = slice(graph.indptr[face], graph.indptr[face + 1])
            theirs = people[graph.indices[edges]]
            if (theirs != UNASSIGNED).any():
                people[face] = theirs[np.where(theirs != UNASSIGNED, graph.data[edges], -np.inf).argmax()]
            elif is_core[face]:
                people[face] = people.max() + 1
        return people

    return method


def prepare_photoprism(embeddings: Floats) -> Method:
    """(N,D) unit vectors → PhotoPrism's rule: DBSCAN, then noise faces join the cluster of the nearest centre."""

    def method(setting: Setting) -> Labels:
        people = _run_dbscan(embeddings, _get_distance(setting), setting.core)
        left = np.flatnonzero(people == UNASSIGNED)
        if not len(left) or len(left) == len(people):
            return people
        scale = float(np.sqrt(2 * _get_distance(setting))) / PHOTOPRISM_EUCLIDEAN
        centres = _compute_centres(embeddings, people)
        radii = np.zeros(len(centres), np.float32)
        members = np.flatnonzero(people != UNASSIGNED)
        own = np.linalg.norm(embeddings[members] - centres[people[members]], axis=1)
        np.maximum.at(radii, people[members], own)
        reach = np.minimum(radii, PHOTOPRISM_MAX_RADIUS * scale) + PHOTOPRISM_OFFSET * scale
        distances = np.sqrt(np.maximum(2 - 2 * embeddings[left] @ centres.T, 0))
        distances[distances > reach] = np.inf
        people[left] = np.where(np.isfinite(distances.min(axis=1)), distances.argmin(axis=1), UNASSIGNED)
        return people

    return method


def prepare_ente(embeddings: Floats) -> Method:
    """(N,D) unit vectors in their order → ente's rule: a face joins its nearest earlier face, or is a new person."""
    nearest, similarity = _find_nearest_earlier(embeddings)

    def method(setting: Setting) -> Labels:
        people = np.arange(len(embeddings))
        for face in np.flatnonzero(1 - similarity < _get_distance(setting)):
            people[face] = people[nearest[face]]
        return people

    return method


def _find_nearest_earlier(embeddings: Floats) -> tuple[Labels, Floats]:
    """(N,D) → (N,) the most similar row of those before, and its cosine; -inf for the first."""
    nearest = np.zeros(len(embeddings), np.int64)
    similarity = np.full(len(embeddings), -np.inf, np.float32)
    for begin in range(0, len(embeddings), BLOCK_ROWS):
        end = min(begin + BLOCK_ROWS, len(embeddings))
        block = embeddings[begin:end] @ embeddings[:end].T
        block[np.arange(end) >= np.arange(begin, end)[:, None]] = -np.inf
        nearest[begin:end] = block.argmax(axis=1)
        similarity[begin:end] = block.max(axis=1)
    return nearest, similarity


def _run_dbscan(embeddings: Floats, distance: float, core: int) -> Labels:
    found = DBSCAN(eps=float(np.sqrt(2 * distance)), min_samples=core, algorithm="brute").fit(embeddings)
    return np.asarray(found.labels_, np.int64)


def _compute_centres(embeddings: Floats, people: Labels) -> Floats:
    """(N,D), (N,) people from 0 on or UNASSIGNED → (P,D) means of each person's faces, of unit length."""
    members = np.flatnonzero(people != UNASSIGNED)
    shape = (int(people.max()) + 1, len(people))
    sums = sparse.csr_array((np.ones(len(members), np.float32), (people[members], members)), shape=shape) @ embeddings
    centres: Floats = sums / np.linalg.norm(sums, axis=1, keepdims=True)
    return centres


def _get_distance(setting: Setting) -> float:
    assert setting.distance is not None
    return setting.distance


BASELINES: Mapping[str, Baseline] = {
    "dbscan": Baseline(prepare_dbscan, Setting(0.5**2 / 2, core=5), cores=(2, 3)),
    "hdbscan": Baseline(prepare_hdbscan, Setting(None, core=5), cores=(2, 3), needs_matrix=True),
    "chinese_whispers": Baseline(prepare_chinese_whispers, Setting((DLIB_EUCLIDEAN / DLIB_LENGTH) ** 2 / 2)),
    "average_linkage": Baseline(prepare_average_linkage, None, needs_matrix=True),
    "immich": Baseline(prepare_immich, Setting(0.5, core=3), cores=(3,)),
    "photoprism": Baseline(prepare_photoprism, Setting(PHOTOPRISM_EUCLIDEAN**2 / 2, core=4), cores=(4,)),
    "ente": Baseline(prepare_ente, Setting(0.24)),
}
