"""How much a variant differs from its original: detected faces, embeddings, and accuracy of verification."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from app.core.arrays import Floats, Image
from app.core.boxes import compute_ious
from app.packs.variants import DetectorParity, EmbedderParity, Verification
from app.vision.types import Detections
from workshop.networks import WatchedPack
from workshop.samples import Pair, read_images

SAME_FACE_IOU = 0.5
FOLDS = 10


def compare_detectors(
    original: WatchedPack, variant: WatchedPack, photos: Sequence[Path]
) -> tuple[DetectorParity, float]:
    """Both on every photo, by turns → how far they agree, and the variant's speed."""
    networks = original.manifest.networks["detector"]
    ious, score_differences, shifts, face_counts, detected_by_any = [], [], [], [], 0
    times_s = []
    for _, image in read_images(photos, original.pack.view_px):
        before = original.get_spent_s(networks), variant.get_spent_s(networks)
        theirs, ours = original.pack.detect([image])[0], variant.pack.detect([image])[0]
        times_s.append((original.get_spent_s(networks) - before[0], variant.get_spent_s(networks) - before[1]))
        rows, columns, iou = match_faces(theirs, ours)
        ious.append(iou)
        score_differences.append(np.abs(theirs.scores[rows] - ours.scores[columns]))
        shifts.append(measure_landmark_shifts(theirs.landmarks[rows], ours.landmarks[columns]))
        face_counts.append(len(theirs))
        detected_by_any += len(theirs) + len(ours) - len(rows)
    iou, differences = np.concatenate([*ious, []]), np.concatenate([*score_differences, []])
    parity = DetectorParity(
        photos=len(face_counts),
        faces=sum(face_counts),
        matched_share=len(iou) / detected_by_any if detected_by_any else 0,
        least_iou=float(iou.min(initial=1)),
        median_iou=_compute_median(iou),
        largest_score_difference=float(differences.max(initial=0)),
        median_landmark_shift=_compute_median(np.concatenate([*shifts, []])),
    )
    return parity, _measure_speed(times_s)


def compare_embedders(
    original: WatchedPack, variant: WatchedPack, photos: Sequence[Path]
) -> tuple[EmbedderParity, float]:
    """Both on every face that the original detects, by turns → how far they agree, and the variant's speed."""
    networks = original.manifest.networks["embedder"]
    cosines: list[float] = []
    times_s = []
    for _, image in read_images(photos, original.pack.view_px):
        chips = original.pack.cut_chips(image, original.pack.detect([image])[0].landmarks)
        for at in range(len(chips)):
            before = original.get_spent_s(networks), variant.get_spent_s(networks)
            theirs, ours = (pack.pack.embed([chips[at : at + 1]])[0][0] for pack in (original, variant))
            times_s.append((original.get_spent_s(networks) - before[0], variant.get_spent_s(networks) - before[1]))
            cosines.append(float(theirs @ ours))
    parity = EmbedderParity(
        faces=len(cosines), least_cosine=min(cosines, default=0), median_cosine=_compute_median(np.array(cosines))
    )
    return parity, _measure_speed(times_s)


def match_faces(some: Detections, others: Detections) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float64]]:
    """The detections of two detectors in one photo → rows of both that are one face (K,), (K,), and their IoU (K,).

    The best overlaps first, each face once, none below SAME_FACE_IOU.
    """
    overlaps = compute_ious(some.boxes, others.boxes)
    rows, columns = np.unravel_index(np.argsort(-overlaps, axis=None, kind="stable"), overlaps.shape)
    chosen: list[tuple[int, int]] = []
    for row, column in zip(rows.tolist(), columns.tolist(), strict=True):
        if overlaps[row, column] < SAME_FACE_IOU:
            break
        if all(row != taken[0] and column != taken[1] for taken in chosen):
            chosen.append((row, column))
    pairs = np.array(chosen, np.intp).reshape(-1, 2)
    return pairs[:, 0], pairs[:, 1], overlaps[pairs[:, 0], pairs[:, 1]]


def measure_landmark_shifts(some: Floats, others: Floats) -> NDArray[np.float64]:
    """(N,5,2), (N,5,2) of the same faces → (N,) mean distance of their landmarks, in distances of the eyes.

    The landmarks influence an embedding more than anything else of a detection: the face is aligned by them.
    """
    eyes = np.linalg.norm(some[:, 0] - some[:, 1], axis=1).astype(np.float64)
    apart = np.linalg.norm(some - others, axis=2).mean(axis=1)
    shifts: NDArray[np.float64] = apart / np.maximum(eyes, np.finfo(np.float32).tiny)
    return shifts


def embed_people(pack: WatchedPack, pairs: Sequence[Pair]) -> dict[Path, Floats]:
    """The (D,) embedding of the person in each photo of the pairs; none where no face is detected."""
    paths = sorted({path for pair in pairs for path in (pair.first, pair.second)})
    embeddings = {}
    for path, image in read_images(paths, pack.pack.view_px):
        faces = pack.pack.detect([image])[0]
        if len(faces):
            chip = pack.pack.cut_chips(image, faces.landmarks[[find_most_central(faces, image)]])
            embeddings[path] = pack.pack.embed([chip])[0][0]
    return embeddings


def find_most_central(faces: Detections, image: Image) -> int:
    """Row of the face nearest the middle: the person of a photo stands there, as in LFW."""
    middle = np.array([image.shape[1], image.shape[0]]) / 2
    centres = (faces.boxes[:, :2] + faces.boxes[:, 2:]) / 2
    return int(np.argmin(np.linalg.norm(centres - middle, axis=1)))


def verify(pairs: Sequence[Pair], original: dict[Path, Floats], variant: dict[Path, Floats]) -> Verification:
    """Embeddings by photo, of original and variant → how often each decides correctly whether two faces are of one
    person."""
    genuine = np.array([pair.is_genuine for pair in pairs])
    return Verification(
        genuine_pairs=int(genuine.sum()),
        impostor_pairs=int((~genuine).sum()),
        original=measure_accuracy_in_folds(_compute_cosines(pairs, original, original), genuine),
        variant=measure_accuracy_in_folds(_compute_cosines(pairs, variant, variant), genuine),
        mixed=measure_accuracy_in_folds(_compute_cosines(pairs, original, variant), genuine),
    )


def measure_accuracy_in_folds(cosines: NDArray[np.float64], genuine: NDArray[np.bool_]) -> float:
    """(N,) cosines, (N,) whether the pair is genuine → mean accuracy over ten folds, each by the threshold that is best
    on the others.

    The protocol of LFW (Huang et al., 2007).
    """
    fold = np.random.default_rng(FOLDS).permutation(len(cosines)) % FOLDS
    right = np.zeros(len(cosines), bool)
    for number in range(FOLDS):
        held_out = fold == number
        threshold = _choose_threshold(cosines[~held_out], genuine[~held_out])
        right[held_out] = (cosines[held_out] >= threshold) == genuine[held_out]
    return float(right.mean())


def _choose_threshold(cosines: NDArray[np.float64], genuine: NDArray[np.bool_]) -> float:
    """The threshold on the cosine that is right most often: midway between two cosines that occur."""
    order = np.argsort(cosines)
    ascending = np.concatenate([[-np.inf], cosines[order], [np.inf]])
    # With the threshold before the k-th cosine, the impostors below and the genuine pairs from there on are right.
    impostors_below = np.concatenate([[0], np.cumsum(~genuine[order])])
    genuine_below = np.concatenate([[0], np.cumsum(genuine[order])])
    right = impostors_below + genuine.sum() - genuine_below
    # There is no threshold between equal cosines.
    cut = int(np.argmax(np.where(ascending[:-1] < ascending[1:], right, -1)))
    return float(np.clip(ascending[cut : cut + 2], -2, 2).mean())


def _compute_cosines(
    pairs: Sequence[Pair], first: dict[Path, Floats], second: dict[Path, Floats]
) -> NDArray[np.float64]:
    """(N,): -1, the least similarity, where either photo has no face."""
    return np.array(
        [
            float(first[pair.first] @ second[pair.second]) if pair.first in first and pair.second in second else -1
            for pair in pairs
        ]
    )


def _compute_median(values: NDArray[np.float64]) -> float:
    return float(np.median(values)) if len(values) else 0


def _measure_speed(times_s: Sequence[tuple[float, float]]) -> float:
    """Times of original and variant on the same input → the median of their ratios; 1 without any."""
    return float(np.median([theirs / max(ours, 1e-9) for theirs, ours in times_s])) if times_s else 1
