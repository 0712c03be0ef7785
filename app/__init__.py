"""The face worker: photos of a gallery in, people out.

This file runs before any other of the package, so before any library of it: here, and for the image's other programs
in the Dockerfile, libraries that call their makers are told not to (docs/what_leaves.md).
"""

import os

SILENCED = {
    # https://github.com/microsoft/onnxruntime/blob/main/docs/Privacy.md: read once, while onnxruntime is imported.
    "ORT_DISABLE_TELEMETRY": "1",
    # https://docs.ray.io/en/latest/cluster/usage-stats.html: read when a head node is started.
    "RAY_USAGE_STATS_ENABLED": "0",
}
"""Variables that forbid libraries to call their makers. They win over what the environment says: faces are at stake."""

os.environ.update(SILENCED)
