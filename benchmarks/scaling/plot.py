"""Draws the day."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from benchmarks.scaling.ways import Trace

EVERY_MIN = 4
"""Minutes of one point, which has their highest value: a day with a point a minute would be a file of megabytes."""


def write_plot(path: Path, traces: Mapping[str, Trace]) -> None:
    """Backlog, instances and age of the oldest waiting photo, as an SVG that is the same for the same day."""
    with mpl.rc_context({"svg.hashsalt": "scaling", "svg.fonttype": "none"}):
        figure = Figure((8, 8), layout="constrained")
        backlog, instances, age = figure.subplots(3, 1, sharex=True)
        for name, trace in traces.items():
            style = "dotted" if name.startswith("planned") else "solid"
            for axes, series, unit in (
                (backlog, trace.visible, 1e-3),
                (instances, trace.instances, 1),
                (age, trace.oldest_age_s, 1 / 60),
            ):
                values = _take_highest(series) * unit
                axes.plot(np.arange(len(values)) * EVERY_MIN / 60, values, linestyle=style, label=name, linewidth=1.2)
        backlog.set(ylabel="waiting photos (thousands)")
        instances.set(ylabel="instances")
        age.set(ylabel="oldest waiting photo (min)", xlabel="hour of the day", xticks=range(0, 27, 2))
        for axes in (backlog, instances, age):
            axes.grid(alpha=0.3)
            axes.set(xlim=(0, 26), ylim=(0, None))
        figure.legend(*backlog.get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
        figure.savefig(path, format="svg", metadata={"Date": None})


def _take_highest(series: Sequence[float]) -> "np.ndarray[tuple[int], np.dtype[np.float64]]":
    return np.array([max(series[begin : begin + EVERY_MIN]) for begin in range(0, len(series), EVERY_MIN)], float)
