"""A simulation of a day of load with several ways of scaling: ECS, Batch, both, and two that were planned first."""

import sys
from pathlib import Path

# `lambda` is a keyword, so the submitter is imported from its own folder, as Lambda itself does.
sys.path.append(str(Path(__file__).parents[2] / "infra" / "lambda"))
