"""Types of the arrays that many packages use."""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

Image = NDArray[np.uint8]
"""(H,W,3) uint8 RGB, upright."""
