"""Model weights from a bucket."""

from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

from botocore.exceptions import BotoCoreError, ClientError

from app.adapters.aws import open_client
from app.core.errors import BadModelPack


def make_model_downloader(region: str) -> Callable[[str, Path], None]:
    """A function that copies the object at an s3:// URL to a path. It raises BadModelPack."""

    def download(url: str, target: Path) -> None:
        parts = urlsplit(url)
        try:
            open_client("s3", region, read_timeout_s=60).download_file(
                parts.netloc, parts.path.lstrip("/"), str(target)
            )
        except (ClientError, BotoCoreError) as error:
            raise BadModelPack(f"The model file {url} can't be fetched: {error}") from error

    return download
