"""The cost model: hand-made prices give hand-made sums, and the documents show what the command prints."""

import json
from pathlib import Path

import pytest

from infra.cost.__main__ import main
from infra.cost.inputs import PRICES, WORKLOAD, Prices, Rekognition, UnusableFile, Workload, read_table
from infra.cost.model import WAYS, Model, Way, compute_rekognition_per_1000

DOCS = Path(__file__).parents[2] / "docs"
ROUND = {
    "seconds_per_photo": 0.36,
    "faces_per_photo": 2,
    "grouping_seconds_per_1000_faces": 9,
    "full_runs_per_gallery": 2,
    "start_s": 100,
    "ecs_idle_s": 260,
    "batch_idle_s": 80,
    "reclaims_per_instance_hour": 1,
    "drain_s": 1800,
    "max_instances": 4,
    "root_volume_gb": 730,
    "sqs_requests_per_photo": 1,
    "s3_puts_per_photo": 1,
    "log_bytes_per_photo": 1000,
}
PRICE = """
region = "nowhere-1"
written = 2030-01-01
[instances]
checked = 2030-01-01
source = "here"
types.gpu = { on_demand_usd_h = 2.0, spot_usd_h = 1.0 }
[volumes]
checked = "never"
source = "here"
usd_gb_month = 0.0
[requests]
checked = 2030-01-01
source = "here"
sqs_usd_million = 1.0
s3_get_usd_1000 = 0.001
s3_put_usd_1000 = 0.001
logs_usd_gb = 1.0
[rekognition]
checked = 2030-01-01
source = "here"
face_month_usd = 0.0
tiers = [{ calls = 1000, usd_call = 0.01 }, { usd_call = 0.001 }]
"""


@pytest.fixture
def model(tmp_path: Path) -> Model:
    (tmp_path / "prices.toml").write_text(PRICE)
    figures = {name: {"value": value, "measured": False, "source": "made up"} for name, value in ROUND.items()}
    return Model(read_table(tmp_path / "prices.toml", Prices), Workload.model_validate(figures), "gpu", "gpu")


def test_ten_thousand_photos_are_an_hour_of_work(model: Model) -> None:
    assert model.compute_burst(Way("ecs", "on-demand"), 10_000).work == pytest.approx(2.0)
    assert model.compute_burst(Way("ecs", "spot"), 10_000).work == pytest.approx(1.0)


def test_each_instance_starts_and_idles_once(model: Model) -> None:
    assert model.count_instances(10_000) == 2
    assert model.compute_burst(Way("ecs", "on-demand"), 10_000).lifecycle == pytest.approx(2 * 360 / 3600 * 2.0)


def test_a_reclaim_costs_another_start(model: Model) -> None:
    assert model.compute_burst(Way("batch", "spot"), 10_000).lifecycle == pytest.approx((2 * 180 + 100) / 3600)


def test_there_are_never_more_instances_than_allowed_nor_fewer_than_one(model: Model) -> None:
    assert (model.count_instances(1), model.count_instances(10_000_000)) == (1, 4)


def test_grouping_is_its_runs_and_one_instance(model: Model) -> None:
    work_s = 20_000 / 1000 * 9 * 2
    assert model.compute_burst(Way("ecs", "on-demand"), 10_000).grouping == pytest.approx((work_s + 360) / 3600 * 2.0)


def test_requests_are_counted_photo_by_photo(model: Model) -> None:
    assert model.compute_burst(WAYS[0], 1_000_000).requests == pytest.approx(1 + 1 + 1 + 1)


def test_a_root_volume_is_paid_while_its_instance_lives(model: Model) -> None:
    volumes = model.prices.volumes.model_copy(update={"usd_gb_month": 1.0})
    dearer = Model(model.prices.model_copy(update={"volumes": volumes}), model.workload, "gpu", "gpu")
    assert dearer.compute_burst(WAYS[0], 10_000).work == pytest.approx(2.0 + 1.0)


def test_an_instance_that_never_ends_is_shared_by_the_month(model: Model) -> None:
    assert model.compute_always_on(10_000, 20_000).work == pytest.approx(730 * 2.0 / 2)


def test_rekognition_counts_a_call_a_photo_and_a_call_a_face_by_tier(model: Model) -> None:
    assert compute_rekognition_per_1000(model.prices.rekognition, 1_000, 1.0) == pytest.approx(
        1000 * 0.01 + 1000 * 0.001
    )


def test_what_was_never_checked_is_named(model: Model) -> None:
    assert model.prices.unchecked == ["volumes"]


def test_tiers_that_do_not_end_are_refused() -> None:
    tiers = [{"calls": 5, "usd_call": 1.0}]
    with pytest.raises(ValueError, match="the last must have no `calls`"):
        Rekognition.model_validate({"checked": "never", "source": "", "face_month_usd": 0, "tiers": tiers})


@pytest.mark.parametrize(("path", "kind"), [(PRICES, Prices), (WORKLOAD, Workload)])
def test_a_misspelt_figure_is_refused(path: Path, kind: type[Prices | Workload], tmp_path: Path) -> None:
    (tmp_path / "file.toml").write_text("mistake = 1\n" + path.read_text("utf-8"))
    with pytest.raises(UnusableFile, match="mistake"):
        read_table(tmp_path / "file.toml", kind)


def test_the_document_shows_what_the_command_prints(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    assert capsys.readouterr().out in (DOCS / "costs.md").read_text("utf-8")


def test_json_adds_up(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--json", "--seconds-per-photo", "0.05", "--photos", "2000"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["inputs"]["seconds_per_photo"]["value"] == 0.05
    for cost in answer["usd_per_1000"].values():
        assert cost["total"] == pytest.approx(cost["work"] + cost["lifecycle"] + cost["requests"] + cost["grouping"])


def test_an_instance_type_without_a_price_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--detection-on", "p9.huge"]) == 1
    assert "no price of p9.huge, only of g4dn.xlarge" in capsys.readouterr().err
