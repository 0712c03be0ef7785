"""boto3 clients and the translation of their errors."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import boto3
import botocore.loaders
import botocore.session
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionError,
    HTTPClientError,
    NoCredentialsError,
    NoRegionError,
)

from app.core.errors import BadConfiguration, RetryLater, StoreUnavailable

DENIED = {"AccessDenied", "AccessDeniedException", "403", "InvalidAccessKeyId", "SignatureDoesNotMatch"}


def open_client(service: str, region: str, read_timeout_s: float = 15, attempts: int = 3) -> Any:  # noqa: ANN401 - boto3 clients are made at run time
    """A client with bounded time-outs and explicit retries."""
    config = Config(
        connect_timeout=5,
        read_timeout=read_timeout_s,
        retries={"mode": "standard", "total_max_attempts": attempts},
        max_pool_connections=32,
    )
    return open_session(region).client(service, config=config)


def open_session(region: str) -> boto3.session.Session:
    """A session that doesn't read the descriptions of AWS's services anew."""
    core = botocore.session.get_session()
    core.register_component("data_loader", _load_service_models())
    return boto3.session.Session(botocore_session=core, region_name=region)


@cache
def _load_service_models() -> botocore.loaders.Loader:
    """Reader of the descriptions of AWS's services. Reading them again for each client took half of a service's
    start."""
    return botocore.loaders.create_loader()


FIRST_SERVER_ERROR = 500


@contextmanager
def translate_aws_errors(action: str, store: str = "AWS") -> Iterator[None]:
    """Turns boto3's errors into this system's, with a sentence that begins with the action.

    A service that can't be reached, or fails on its own side, is StoreUnavailable(`store`).
    """
    try:
        yield
    except (NoCredentialsError, NoRegionError) as error:
        raise BadConfiguration(f"{action} failed: {error}. Give the task a role or set AWS credentials.") from error
    except ClientError as error:
        code = read_error_code(error)
        hint = " Check the task role's policy." if code in DENIED else ""
        sentence = f"{action} failed: {code}: {error.response['Error'].get('Message', '')}.{hint}"
        if error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0) >= FIRST_SERVER_ERROR:
            raise StoreUnavailable(store, sentence) from error
        raise RetryLater(sentence) from error
    except (HTTPClientError, ConnectionError) as error:
        raise StoreUnavailable(store, f"{action} failed: {error}") from error
    except BotoCoreError as error:
        raise RetryLater(f"{action} failed: {error}") from error


def read_error_code(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", "unknown"))
