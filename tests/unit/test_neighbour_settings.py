"""Which search for neighbours the settings lead to."""

import sys

import pytest

from app.bootstrap import make_neighbour_search
from app.clustering.candidates import GpuMemory, has_gpu
from app.clustering.neighbours import NeighbourSearch
from app.config import SearchSettings
from app.core.errors import BadConfiguration


def settings(**changes: object) -> SearchSettings:
    return SearchSettings.model_construct(**changes)


def test_the_search_is_as_it_is_set() -> None:
    asked = settings(
        neighbours_device="cpu",
        neighbours_exact_faces=7,
        neighbours_gpu_working_mb=100,
        neighbours_gpu_gallery_mb=200,
        neighbours_gpu_float16=False,
    )
    assert make_neighbour_search(asked) == NeighbourSearch("cpu", 7, GpuMemory(100, 200, float16=False))


@pytest.mark.skipif(has_gpu(), reason="this build of FAISS sees a GPU, so it may be asked for")
def test_a_gpu_that_is_not_there_stops_the_start() -> None:
    with pytest.raises(BadConfiguration, match="NEIGHBOURS_DEVICE is gpu"):
        make_neighbour_search(settings(neighbours_device="gpu"))


def test_ray_that_is_not_installed_stops_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "app.clustering.distributed", raising=False)
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(BadConfiguration, match="install the extra `ray`"):
        make_neighbour_search(settings(ray_address="auto"))
