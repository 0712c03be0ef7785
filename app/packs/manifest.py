"""A model pack's manifest: everything the worker must know about a detector and an embedder."""

import hashlib
import ipaddress
import tomllib
from datetime import date
from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from app.core.errors import BadModelPack
from app.core.likeness import FindBars
from app.core.roles import QualityBars
from app.core.thresholds import Threshold

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
PackName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_.-]*$")]


def is_secure_url(url: str) -> bool:
    """Whether weights may be fetched from here: by https, or by http from this machine itself, as tests do."""
    parts = urlsplit(url)
    return bool(parts.hostname) and (
        parts.scheme == "https" or (parts.scheme == "http" and _is_loopback(parts.hostname))
    )


def _is_loopback(host: str | None) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host or "").is_loopback
    except ValueError:
        return False


def _check_url(url: str) -> str:
    if not is_secure_url(url):
        raise ValueError("must be an https:// address")
    return url


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class OneStageConfig(_Part):
    """A detector of one network. `input_sizes_px` are a photo's longer side; the results are merged by NMS.

    Where a candidate, which scores `closer_look_hint` or more, is smaller than `closer_look_below_px` at the largest
    size, a photo with more pixels than that size is run at `closer_look_px` too; 0 switches that off.

    A photo without an upright face that scores `sure_score` may be rotated: the surroundings of its best candidate are
    searched in other rotations; 0 switches that off.
    """

    file: str
    input_sizes_px: tuple[int, ...]
    closer_look_px: int
    closer_look_below_px: float
    closer_look_hint: float
    sure_score: float
    score_threshold: float
    nms_iou: float

    @property
    def used_files(self) -> set[str]:
        return {self.file}


class ScrfdConfig(OneStageConfig):
    """InsightFace SCRFD."""

    kind: Literal["scrfd"]
    input_sizes_px: tuple[int, ...] = (128, 640)
    closer_look_px: int = 1280
    closer_look_below_px: float = 16
    closer_look_hint: float = 0.15
    sure_score: float = 0.8
    score_threshold: float = 0.5
    nms_iou: float = 0.4


class CenterfaceConfig(OneStageConfig):
    """CenterFace, in the form that app/packs/open_pack/build_open.py gives it."""

    kind: Literal["centerface"]
    input_sizes_px: tuple[int, ...] = (256, 640)
    closer_look_px: int = 1088
    closer_look_below_px: float = 16
    closer_look_hint: float = 0.15
    sure_score: float = 0.8
    score_threshold: float = 0.35
    nms_iou: float = 0.4


class YunetConfig(OneStageConfig):
    """OpenCV's YuNet. It was trained for faces of 10 to 300 px, so the smaller size is for the faces of portraits.

    A score is the geometric mean of two, and so higher than SCRFD's for the same face.
    """

    kind: Literal["yunet"]
    input_sizes_px: tuple[int, ...] = (320, 640)
    closer_look_px: int = 1280
    closer_look_below_px: float = 16
    closer_look_hint: float = 0.4
    sure_score: float = 0.9
    score_threshold: float = 0.7
    nms_iou: float = 0.3


class MtcnnConfig(_Part):
    """The three networks of MTCNN and the least face probability of each; `score_threshold` is the last one's.

    Faces from `min_face_px` on are detected, after the photo's longer side is reduced to `max_side_px`. A photo without
    an upright face that scores `sure_score` is searched in other rotations too; 0 switches that off.
    """

    kind: Literal["mtcnn"]
    pnet: str
    rnet: str
    onet: str
    min_face_px: int = Field(default=20, ge=12)
    max_side_px: int = Field(default=1024, ge=12)
    pnet_threshold: float = 0.6
    rnet_threshold: float = 0.7
    score_threshold: float = 0.85
    sure_score: float = 0.98

    @property
    def used_files(self) -> set[str]:
        return {self.pnet, self.rnet, self.onet}


class EmbedderConfig(_Part):
    """Any ONNX embedder: (N,3,S,S) in, (N,D) out. Pixels become (pixel - mean) / scale.

    `whitening` is a file beside the manifest, which `python -m workshop crowd` writes; without one, vectors are stored
    as the network gives them. `parts` are the dimensions of the parts of a vector that comes from several networks;
    each part is whitened by itself.
    """

    file: str
    input_size_px: int = 112
    channel_order: Literal["rgb", "bgr"] = "rgb"
    mean: tuple[float, float, float] = (127.5, 127.5, 127.5)
    scale: float = 127.5
    alignment: Literal["arcface", "dlib", "dlib-wide"] = "arcface"
    dimension: int
    parts: tuple[int, ...] = ()
    whitening: str | None = None

    @model_validator(mode="after")
    def _check_parts(self) -> Self:
        if self.parts and sum(self.parts) != self.dimension:
            raise ValueError(f"the parts {self.parts} do not add up to the dimension {self.dimension}")
        return self


class Calibration(_Part):
    """How `similarity_threshold` was chosen: written by `python -m workshop calibrate`.

    `false_match_rate` is the share of pairs of different people that lie above it, `false_non_match_rate` that of one
    person's pairs that don't, each person and each pair of people with the same weight. `collection` names the photos.
    """

    false_match_rate: float = Field(ge=0, le=1)
    false_non_match_rate: float = Field(ge=0, le=1)
    genuine_pairs: int
    impostor_pairs: int
    faces: int
    people: int
    collection: str
    command: str
    date: date


class RemoteFile(_Part):
    """A file on a web server, and its size."""

    url: Annotated[str, AfterValidator(_check_url)]
    size_bytes: int = Field(gt=0)


class Source(_Part):
    """Where the weights come from.

    `built`: made at set-up by a builder in this repository. `insightface`: the package fetches the named pack.
    `directory`: they lie in `path` (relative to the manifest). `s3`: `path` is s3://bucket/prefix. `https`: `files` has
    the address of each.
    """

    kind: Literal["built", "insightface", "directory", "s3", "https"]
    path: str = ""
    files: dict[str, RemoteFile] = {}


class PackManifest(_Part):
    """One pack. `similarity_threshold` is the cosine above which two faces are likely of one person, in a gallery of
    100 people; it rises by `threshold_per_tenfold` for ten times as many (app/core/thresholds.py). `find_threshold` is
    the similarity beyond the crowd from which on a selfie is taken for somebody (app/core/likeness.py), and rises by
    `find_per_tenfold`; `find_crowd` is the usual similarity to the crowd. By a pack without `find_threshold` nobody is
    found for certain. `quality` has the
    quality bars for its embedder. Only a pack of the source `https` may lack hashes: `missing_hashes`.

    A pack that has another name than before names the former one in `id_name`, so that its model id stays the same.
    """

    name: PackName
    id_name: PackName | None = None
    licence: str
    commercial_use: bool
    files: dict[str, Sha256] = {}
    detector: Annotated[ScrfdConfig | CenterfaceConfig | YunetConfig | MtcnnConfig, Field(discriminator="kind")]
    embedder: EmbedderConfig
    similarity_threshold: float = Field(gt=0, lt=1)
    threshold_per_tenfold: float = Field(default=0, ge=0, le=0.2)
    find_threshold: float | None = Field(default=None, gt=0, lt=1)
    find_per_tenfold: float = Field(default=0, ge=0, le=0.3)
    find_crowd: float = Field(default=0, ge=-1, le=1)
    quality: QualityBars = QualityBars()
    source: Source
    calibration: Calibration | None = None

    @model_validator(mode="after")
    def _check_hashes(self) -> Self:
        used = {self.embedder.file, *self.detector.used_files}
        if self.source.kind == "https":
            if missing := (used | set(self.weight_files)) - self.source.files.keys():
                raise ValueError(f"[source.files] lacks the address of {', '.join(sorted(missing))}")
            used = set()
        if missing := (used | set(filter(None, [self.embedder.whitening]))) - self.files.keys():
            raise ValueError(f"[files] lacks the hash of {', '.join(sorted(missing))}")
        return self

    def without_whitening(self) -> "PackManifest":
        """The manifest of the same pack with vectors as its network gives them."""
        embedder = self.embedder.model_copy(update={"whitening": None})
        files = {name: sha for name, sha in self.files.items() if name != self.embedder.whitening}
        return self.model_copy(update={"embedder": embedder, "files": files})

    @property
    def threshold(self) -> Threshold:
        """The threshold for galleries of every size."""
        return Threshold(self.similarity_threshold, self.threshold_per_tenfold)

    @property
    def find_bars(self) -> FindBars | None:
        """From where on a guest is found, in galleries of every size; None where that was not calibrated."""
        if self.find_threshold is None:
            return None
        return FindBars(Threshold(self.find_threshold, self.find_per_tenfold), self.find_crowd)

    @property
    def weight_files(self) -> list[str]:
        """The files with a hash that are fetched or built: all but the whitening, which lies beside the manifest."""
        return [name for name in self.files if name != self.embedder.whitening]

    @property
    def file_names(self) -> list[str]:
        """All files that are fetched or built, whether or not their hashes are known."""
        return list(dict.fromkeys([*self.weight_files, *self.source.files]))

    @property
    def missing_hashes(self) -> list[str]:
        """Files that have an address and no hash yet. No service starts with such a manifest."""
        return [name for name in self.source.files if name not in self.files]

    @property
    def networks(self) -> dict[str, frozenset[str]]:
        """`detector` and `embedder` → their files, which are measured together, and used together or not at all."""
        return {
            "detector": frozenset(self.detector.used_files),
            "embedder": frozenset({self.embedder.file}),
        }

    @property
    def model_id(self) -> str:
        """Names the vector space: the pack and its weights, so that embeddings of two spaces are never compared."""
        digest = hashlib.sha256("".join(f"{name}:{sha}\n" for name, sha in sorted(self.files.items())).encode())
        return f"{self.id_name or self.name}-{digest.hexdigest()[:12]}"


def read_manifest(path: Path) -> PackManifest:
    """Read a TOML manifest. Raises BadModelPack with every problem listed."""
    try:
        return PackManifest.model_validate(tomllib.loads(path.read_text("utf-8")))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise BadModelPack(f"The pack manifest {path} can't be read: {error}") from error
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise BadModelPack(f"The pack manifest {path} is not valid: {problems}") from error
