"""Draws error-versus-discard curves."""

from collections.abc import Mapping
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

from app.core.arrays import Floats
from benchmarks.accuracy.quality_curves import DISCARDED

SHOWN = (
    "unified",
    "sharpness",
    "eyes_covered",
    "mouth_covered",
    "yaw",
    "inter-eye distance",
    "detector score",
    "Laplacian variance",
    "random",
)


def write_plot(path: Path, curves: Mapping[str, Floats]) -> None:
    """Measure → (31,) FNMR, as an SVG that is the same for the same curves."""
    with mpl.rc_context({"svg.hashsalt": "quality"}):
        figure = Figure((7, 4.5), layout="constrained")
        axes = figure.subplots()
        for name in SHOWN:
            width = 2.5 if name == "unified" else 1.2
            axes.plot(100 * DISCARDED, 100 * curves[name], label=name.replace("_", " "), linewidth=width)
        axes.set(xlabel="faces discarded (%)", ylabel="FNMR of the others (%)", xlim=(0, 30), ylim=(0, None))
        axes.grid(alpha=0.3)
        axes.legend(fontsize="small", loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
        figure.savefig(path, format="svg", metadata={"Date": None})
