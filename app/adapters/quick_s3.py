"""Objects of S3 read and written by obstore, which takes a fifth of boto3's CPU time and lets go of Python's lock.

A request that doesn't succeed here is made again by boto3: it knows all of AWS's ways to refuse, and its errors are
those that this system explains. So a key, a network or a store that obstore can't deal with costs time, and nothing
else. After several failures in a row it is left out for a while.
"""

import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit, urlunsplit

import obstore
from botocore.credentials import Credentials
from obstore.store import S3Store as Bucket

if TYPE_CHECKING:
    from obstore import GetResult, PutResult

FAILURES = 5
LEFT_OUT_S = 60.0
CREDENTIALS_S = 240
"""AWS's temporary credentials are renewed ten minutes before they end, or earlier."""
OPTIONS: Any = {"connect_timeout": "5s", "read_timeout": "15s", "timeout": "300s"}
"""As boto3's in app/adapters/aws.py; a large file may take long as a whole."""
AWS_HOSTS = (".amazonaws.com", ".amazonaws.com.cn")

Answer = TypeVar("Answer")


class QuickS3:
    """Each method returns None where the request did not succeed, for whatever reason.

    `endpoint_url` and `credentials` are those of a boto3 client; without credentials nothing succeeds.
    """

    def __init__(self, endpoint_url: str, region: str, credentials: Credentials | None) -> None:
        self._endpoint, self._region, self._credentials = endpoint_url, region, credentials
        self._buckets: dict[str, Bucket] = {}
        self._lock = threading.Lock()
        self._failures = 0
        self._left_out_until = 0.0

    def get(self, bucket: str, key: str) -> "GetResult | None":
        """An object, not read yet."""
        return self._try(bucket, key, lambda store: obstore.get(store, key))

    def read(self, result: "GetResult") -> bytes | None:
        """All of an object."""
        try:
            return bytes(result.bytes())
        except Exception:  # noqa: BLE001 - as in _try
            self._note_failure()
            return None

    def get_part(self, bucket: str, key: str, start: int, length: int) -> bytes | None:
        return self._try(bucket, key, lambda store: bytes(obstore.get_range(store, key, start=start, length=length)))

    def put(self, bucket: str, key: str, data: bytes, content_type: str) -> "PutResult | None":
        # In one request, as boto3 does it: an object that is written in parts has another kind of ETag.
        return self._try(
            bucket,
            key,
            lambda store: obstore.put(store, key, data, attributes={"Content-Type": content_type}, use_multipart=False),
        )

    def _try(self, bucket: str, key: str, request: Callable[[Bucket], Answer]) -> Answer | None:
        # obstore takes slashes off both ends of a key; whatever else it can't name, it refuses.
        if key.startswith("/") or key.endswith("/") or time.monotonic() < self._left_out_until:
            return None
        try:
            answer = request(self._open(bucket))
        except (FileNotFoundError, ValueError):
            return None
        except Exception:  # noqa: BLE001 - boto3 will say what is wrong, if anything is
            self._note_failure()
            return None
        self._failures = 0
        return answer

    def _note_failure(self) -> None:
        self._failures += 1
        if self._failures >= FAILURES:
            self._failures, self._left_out_until = 0, time.monotonic() + LEFT_OUT_S

    def _open(self, bucket: str) -> Bucket:
        with self._lock:
            if bucket not in self._buckets:
                self._buckets[bucket] = self._make(bucket)
            return self._buckets[bucket]

    def _make(self, bucket: str) -> Bucket:
        parts = urlsplit(self._endpoint)
        # As boto3: the bucket stands in the host's name, unless a certificate for one label can't cover it.
        in_host = parts.netloc.endswith(AWS_HOSTS) and "." not in bucket
        endpoint = urlunsplit(parts._replace(netloc=f"{bucket}.{parts.netloc}")) if in_host else self._endpoint
        options: Any = {**OPTIONS, "allow_http": parts.scheme == "http"}
        return Bucket(
            bucket,
            config={"endpoint": endpoint, "region": self._region, "virtual_hosted_style_request": in_host},
            client_options=options,
            retry_config={"max_retries": 0, "retry_timeout": timedelta(seconds=15)},
            credential_provider=self._get_credentials,
        )

    def _get_credentials(self) -> Any:  # noqa: ANN401 - a type of obstore's stubs alone
        if self._credentials is None:
            raise PermissionError("There are no credentials.")
        frozen = self._credentials.get_frozen_credentials()
        return {
            "access_key_id": frozen.access_key,
            "secret_access_key": frozen.secret_key,
            "token": frozen.token,
            "expires_at": datetime.now(UTC) + timedelta(seconds=CREDENTIALS_S),
        }
