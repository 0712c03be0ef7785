"""The stages of a photo and of a find: the one list that work, logs, metrics, traces and documentation go by."""

from enum import Enum


class Stage(Enum):
    """A stage, in the order in which a photo or a find passes them.

    `label` is its name in logs, traces and stored records, `metric` the metric of its seconds (None: no metric of its
    own), `meaning` what it covers.
    """

    GALLERY = ("gallery", None, "of a find: reading its answer, if there is one, the gallery and its vectors")
    THUMBNAIL = ("thumbnail", None, "reading the owner's thumbnail and judging the photo by it")
    FETCH = ("fetch", "FetchSeconds", "opening and reading it, and waiting for room in BYTES_IN_WORK")
    DECODE = ("decode", "DecodeSeconds", "from the file's bytes to as many pixels as the networks need")
    PREFILTER = ("prefilter", None, "judging it before the networks see it")
    DETECT = ("detect", "DetectSeconds", "finding its faces, waiting for the network included")
    DEVICE_WAIT = ("device_wait", "DeviceWaitSeconds", "the part of `detect` and `embed` that it waited")
    ALIGN = ("align", None, "cutting aligned chips of its faces")
    EMBED = ("embed", "EmbedSeconds", "embedding its faces, waiting for the network included")
    QUALITY = ("quality", None, "measuring the quality of its faces")
    PICTURES = ("pictures", None, "encoding crops and preview, and writing them to S3")
    SEARCH = ("search", None, "of a find: comparing the guest with everybody, and reading the photos")
    ANSWER = ("answer", None, "of a find: storing the answer, sending it, and removing the selfies")
    STORE = ("store", "StoreSeconds", "writing its documents to MongoDB")

    def __init__(self, label: str, metric: str | None, meaning: str) -> None:
        self.label, self.metric, self.meaning = label, metric, meaning


def make_stages_table() -> str:
    """All stages as a Markdown table, for the documentation."""
    rows = ["| stage | metric | meaning |", "|---|---|---|"]
    rows += [f"| `{one.label}` | {f'`{one.metric}`' if one.metric else 'none'} | {one.meaning} |" for one in Stage]
    return "\n".join(rows) + "\n"
