"""What the preflight says on a machine with a GPU. Skipped, with the reason, where there is no driver."""

import pytest

from app.config import ServiceType
from app.preflight.checks import examine, read_needs
from app.preflight.machine import ThisMachine

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(ThisMachine().find_driver() is None, reason="no NVIDIA driver can be seen here"),
]


@pytest.mark.parametrize("service", ["detection", "grouping"])
def test_a_gpu_of_this_machine_is_found_fit_by_the_build_for_gpus(service: ServiceType) -> None:
    machine = ThisMachine()
    if machine.find_library(service).cuda is None:
        pytest.skip(f"{machine.find_library(service).name} is the build for CPUs")
    driver = machine.find_driver()
    assert driver is not None
    found = {finding.check: finding for finding in examine(read_needs(service), machine)}["device"]
    assert found.error is None, found.sentence
    assert driver.gpus[0].name in found.sentence
