"""A file of a model pack from a web server: resumed where a download broke off, and bounded in time.

A part of a file lies beside a note of the server's version of it (RFC 9110, ETag or Last-Modified). The rest is asked
for with `If-Range`, so that a server which has another version, or does not know ranges, sends the whole file.
"""

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn
from urllib.parse import unquote, urljoin, urlsplit
from urllib.request import getproxies, proxy_bypass

import urllib3
from urllib3.exceptions import HTTPError, MaxRetryError

from app.core.errors import BadModelPack
from app.packs.manifest import RemoteFile, is_secure_url

TIMEOUT = urllib3.Timeout(connect=10, read=30)
RETRIES = urllib3.Retry(total=4, backoff_factor=1, backoff_max=10)
"""Of one file: what it has is kept from try to try."""
LEAST_BYTES_PER_S = 20_000
EXTRA_S = 60
"""A file may take so long, and what it takes at the least pace."""
MOST_REDIRECTS = 5
CHUNK_BYTES = 1_000_000
TRY_AGAIN = (408, 416, 425, 429)
"""Statuses below 500 that another try may not get. 416: the part that is there is longer than the server's file."""
WITHOUT_INTERNET = (
    "Where this machine has no way to the internet, set HTTPS_PROXY, or put the files of the pack into a bucket and "
    "set MODEL_SOURCE."
)


class _AnotherTry(HTTPError):
    """The answer was of no use, and another may be."""


def download(name: str, remote: RemoteFile, part: Path) -> None:
    """Complete `part`, whose beginning may be there from an earlier try. Its hash is for the caller to check.

    Raises BadModelPack, which says what to do, where the file can't be fetched or has another size than `remote` says.
    """
    until = time.monotonic() + EXTRA_S + remote.size_bytes / LEAST_BYTES_PER_S
    retries = RETRIES
    while True:
        try:
            if _fetch_rest(name, remote, part, until):
                return
            error: HTTPError = _AnotherTry("the connection ended before the file did")
        except HTTPError as failed:
            error = failed
        try:
            retries = retries.increment("GET", remote.url, error=error)
        except MaxRetryError:
            _refuse(name, remote, f"{_describe(error)} (tried {RETRIES.total} times more)", WITHOUT_INTERNET)
        retries.sleep()


def forget(part: Path) -> None:
    """Remove a part, so that its file is fetched anew."""
    part.unlink(missing_ok=True)
    _note_of(part).unlink(missing_ok=True)


def _fetch_rest(name: str, remote: RemoteFile, part: Path, until: float) -> bool:
    """One try. False where the connection ended too early."""
    have = part.stat().st_size if part.exists() else 0
    if have == remote.size_bytes:
        return True
    note = _note_of(part)
    version = note.read_text("utf-8") if note.exists() else ""
    headers = {"Accept-Encoding": "identity", "User-Agent": "face-worker"}
    if 0 < have < remote.size_bytes and version:
        headers |= {"Range": f"bytes={have}-", "If-Range": version}
    with _open(name, remote, headers) as answer:
        if answer.status == 206 and answer.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
            mode = "ab"
        elif answer.status == 200:
            _check_length(name, remote, answer.headers.get("Content-Length"))
            have, mode = 0, "wb"
            # First, so that a process which dies here leaves no old bytes beside the note of a new version.
            forget(part)
            note.write_text(_read_version(answer), "utf-8")
        elif answer.status >= 500 or answer.status in (206, *TRY_AGAIN):
            if answer.status in (206, 416):
                forget(part)
            raise _AnotherTry(f"the server answers {answer.status}")
        else:
            _refuse(
                name, remote, f"the server answers {answer.status}", "Put right the address in the manifest's [source]."
            )
        with part.open(mode) as file:
            while chunk := answer.read1(CHUNK_BYTES, decode_content=False):
                file.write(chunk)
                have += len(chunk)
                if have > remote.size_bytes:
                    forget(part)
                    _check_length(name, remote, f"more than {remote.size_bytes}")
                if time.monotonic() > until:
                    _refuse(name, remote, f"it comes at less than {LEAST_BYTES_PER_S} bytes/s", WITHOUT_INTERNET)
    return have == remote.size_bytes


@contextmanager
def _open(name: str, remote: RemoteFile, headers: dict[str, str]) -> Iterator[urllib3.BaseHTTPResponse]:
    """The answer of the last server that redirects lead to. Each must be asked by https."""
    url = remote.url
    for _ in range(MOST_REDIRECTS + 1):
        with _open_pool(url) as pool:
            answer = pool.request(
                "GET", url, headers=headers, timeout=TIMEOUT, retries=False, redirect=False, preload_content=False
            )
            try:
                target = answer.get_redirect_location()
                if not target:
                    yield answer
                    return
            finally:
                answer.close()
        url = urljoin(url, target)
        if not is_secure_url(url):
            # The rest of the address may have a signature that is secret.
            reason = f"the server redirects to {urlsplit(url).scheme}://{urlsplit(url).hostname}, which is not https"
            _refuse(name, remote, reason, "Use another address.")
    _refuse(name, remote, f"the server redirects more than {MOST_REDIRECTS} times", "Use another address.")


def _open_pool(url: str) -> urllib3.PoolManager:
    """By the proxy that HTTPS_PROXY and NO_PROXY name for this address, if any."""
    parts, proxies = urlsplit(url), getproxies()
    proxy = proxies.get(parts.scheme) or proxies.get("all")
    if not proxy or proxy_bypass(parts.hostname or ""):
        return urllib3.PoolManager()
    address = urllib3.util.parse_url(proxy if "://" in proxy else f"http://{proxy}")
    headers = urllib3.make_headers(proxy_basic_auth=unquote(address.auth)) if address.auth else None
    return urllib3.ProxyManager(address._replace(auth=None).url, proxy_headers=headers)


def _note_of(part: Path) -> Path:
    return part.with_name(f"{part.name}.version")


def _read_version(answer: urllib3.BaseHTTPResponse) -> str:
    """What `If-Range` may name: a strong ETag, else the time of the last change, else nothing."""
    etag = answer.headers.get("ETag", "")
    return etag if re.fullmatch('"[^"]*"', etag) else answer.headers.get("Last-Modified", "")


def _check_length(name: str, remote: RemoteFile, length: str | None) -> None:
    if length is not None and length != str(remote.size_bytes):
        _refuse(
            name,
            remote,
            f"it has {length} bytes, not {remote.size_bytes} as the manifest says",
            "Put right the address or the size in the manifest's [source].",
        )


def _describe(error: HTTPError) -> str:
    # Most of urllib3's messages begin with the connection as an object.
    text = str(error.args[0] if error.args else error)
    return re.sub(r"^(<[^>]*>|\w+\([^)]*\)): ", "", text).rstrip(".") or type(error).__name__


def _refuse(name: str, remote: RemoteFile, reason: str, what_to_do: str) -> NoReturn:
    raise BadModelPack(f"The file {name} can't be fetched from {remote.url}: {reason}. {what_to_do}")
