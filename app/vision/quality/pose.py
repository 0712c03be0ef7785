"""Head pose from five landmarks.

A weak-perspective camera (scaled orthography, the first step of POSIT: DeMenthon and Davis, 1995) over a rigid mean
face has a closed form for a whole batch. Five landmarks on a face that moves allow no better accuracy.
"""

import numpy as np

from app.core.arrays import Floats

# Left eye, right eye, nose tip, left and right corner of the mouth, as the viewer sees them; x right, y down, z towards
# the camera; 1 is the distance between the eyes. Depths are those of an average head: the nose tip lies about 0.45 of
# that distance before the eyes, the corners of the mouth a little behind their middle.
_MODEL = np.array([(-0.5, 0.0, 0.0), (0.5, 0.0, 0.0), (0.0, 0.62, 0.45), (-0.39, 1.13, 0.05), (0.39, 1.13, 0.05)])
_CENTRED = _MODEL - _MODEL.mean(axis=0)
_SOLVE = np.linalg.pinv(_CENTRED)


def estimate_head_pose(landmarks: Floats) -> dict[str, Floats]:
    """(N,5,2) px → `yaw`, `pitch` and `roll` (N,) float32 degrees.

    Yaw is positive where the face looks to the viewer's right, pitch where it looks up, roll where it leans to the
    viewer's right (clockwise).
    """
    centred = landmarks - landmarks.mean(axis=1, keepdims=True)
    # (N,2,3): the first two rows of the rotation, times the scale.
    rows = np.swapaxes(np.einsum("kp,npc->nkc", _SOLVE, centred.astype(np.float64)), 1, 2)
    yaw = np.degrees(np.arctan2(rows[:, 0, 2], np.hypot(rows[:, 0, 0], rows[:, 0, 1])))
    pitch = np.degrees(np.arctan2(-rows[:, 1, 2], np.hypot(rows[:, 1, 0], rows[:, 1, 1])))
    roll = np.degrees(np.arctan2(landmarks[:, 1, 1] - landmarks[:, 0, 1], landmarks[:, 1, 0] - landmarks[:, 0, 0]))
    return {name: np.asarray(angle, np.float32) for name, angle in (("yaw", yaw), ("pitch", pitch), ("roll", roll))}


def measure_inter_eye_px(landmarks: Floats, yaw_deg: Floats) -> Floats:
    """(N,5,2) px, (N,) → (N,) px between the eyes, as they would be from the front (OFIQ divides by cos yaw)."""
    distance = np.linalg.norm(landmarks[:, 1] - landmarks[:, 0], axis=1)
    return np.asarray(distance / np.maximum(np.cos(np.radians(yaw_deg)), 0.5), np.float32)
