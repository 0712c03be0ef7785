"""The model's answers as Markdown tables and as JSON."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from infra.cost.inputs import Workload
from infra.cost.model import WAYS, Cost, Model, compute_rekognition_per_1000

BURSTS = (500, 5_000, 50_000)
SECONDS = (0.016, 0.025, 0.05, 0.1, 0.2)


@dataclass(frozen=True)
class Question:
    """A burst of `photos`, in a month of `photos_a_month`."""

    photos: int
    photos_a_month: int


def make_json(model: Model, question: Question) -> dict[str, Any]:
    """US dollars for 1,000 photos, with the inputs that they follow from."""
    costs = _compute_costs(model, question)
    return {
        "region": model.prices.region,
        "prices_written": model.prices.written.isoformat(),
        "prices_never_checked": model.prices.unchecked,
        "detection_on": model.detection,
        "grouping_on": model.grouping,
        "photos": question.photos,
        "instances": model.count_instances(question.photos),
        "usd_per_1000": {name: {**vars(cost), "total": cost.total} for name, cost in costs.items()},
        "rekognition_usd_per_1000": _compute_rekognition(model, question),
        "inputs": model.workload.model_dump(),
    }


def make_text(model: Model, question: Question) -> str:
    parts = (
        _make_headline(model, question),
        _tabulate_bursts(model),
        _tabulate_seconds(model, question.photos),
        _tabulate_inputs(model.workload),
    )
    return "\n\n".join(parts) + "\n"


def _make_headline(model: Model, question: Question) -> str:
    rows = [
        (name, *map(_format_usd, (cost.work, cost.lifecycle, cost.requests, cost.grouping, cost.total)))
        for name, cost in _compute_costs(model, question).items()
    ]
    rows.append(("Rekognition's list price", "", "", "", "", _format_usd(_compute_rekognition(model, question))))
    headline = (
        f"US dollars for 1,000 photos in {model.prices.region}: {question.photos:,} photos at once on "
        f"{model.count_instances(question.photos)} {model.detection}, grouping on {model.grouping}, "
        f"{question.photos_a_month:,} photos a month. {_describe_prices(model)}"
    )
    names = ("way", "work", "starts and idling", "requests, logs", "grouping", "all")
    return f"{headline}\n\n{make_table(names, rows)}"


def _compute_costs(model: Model, question: Question) -> dict[str, Cost]:
    photos = question.photos
    costs = {str(way): model.compute_burst(way, photos).scale_to_1000(photos) for way in WAYS}
    always_on = model.compute_always_on(photos, question.photos_a_month).scale_to_1000(photos)
    return {**costs, "one on-demand instance, always on": always_on}


def _tabulate_bursts(model: Model) -> str:
    rows = [
        (str(way), *(_format_usd(model.compute_burst(way, n).scale_to_1000(n).total) for n in BURSTS)) for way in WAYS
    ]
    return "All of it, by photos that come at once:\n\n" + make_table(("way", *(f"{n:,}" for n in BURSTS)), rows)


def _tabulate_seconds(model: Model, photos: int) -> str:
    rows = []
    for way in WAYS:
        totals = (
            _change_seconds(model, seconds).compute_burst(way, photos).scale_to_1000(photos).total
            for seconds in SECONDS
        )
        rows.append((str(way), *map(_format_usd, totals)))
    names = ("way", *(f"{seconds:g} s" for seconds in SECONDS))
    return f"All of it, by seconds a photo takes an instance, {photos:,} at once:\n\n{make_table(names, rows)}"


def _change_seconds(model: Model, seconds: float) -> Model:
    return Model(
        model.prices, model.workload.replace_seconds_per_photo(seconds, "asked for"), model.detection, model.grouping
    )


def _tabulate_inputs(workload: Workload) -> str:
    rows = []
    for name in type(workload).model_fields:
        figure = getattr(workload, name)
        rows.append((f"`{name}`", f"{figure.value:,g}", "measured" if figure.measured else "assumed", figure.source))
    return "What this follows from:\n\n" + make_table(("figure", "value", "is", "source"), rows)


def _describe_prices(model: Model) -> str:
    if not (names := model.prices.unchecked):
        return f"Prices as written on {model.prices.written}."
    return f"Prices as written on {model.prices.written}; never compared with AWS's pages: {', '.join(names)}."


def _compute_rekognition(model: Model, question: Question) -> float:
    faces = model.workload.faces_per_photo.value
    return compute_rekognition_per_1000(model.prices.rekognition, question.photos_a_month, faces)


def _format_usd(amount: float) -> str:
    return f"{amount:.4f}"


def make_table(names: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [names, ["---"] * len(names), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
