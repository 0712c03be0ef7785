"""Packs whose weights come from a web server, with a real server on this machine."""

import hashlib
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from pathlib import Path

import pytest
import urllib3
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from app.bootstrap import run
from app.core.errors import BadModelPack
from app.packs import https
from app.packs.__main__ import main
from app.packs.manifest import is_secure_url, read_manifest
from app.packs.store import PARTS, PackStore
from tests.serving import serving

ROOT = Path(__file__).parents[2]
CONTENT = {"detector.onnx": b"the detector", "embedder.onnx": bytes(range(256)) * 40}
SHA = {name: hashlib.sha256(data).hexdigest() for name, data in CONTENT.items()}
SMALL, LARGE = CONTENT
HALF = len(CONTENT[LARGE]) // 2


@dataclass
class Site:
    """What a server has, and what it was asked. `faults` are done instead of an answer, one a request, in order."""

    files: dict[str, bytes] = field(default_factory=lambda: dict(CONTENT))
    etag: str | None = '"first"'
    knows_ranges: bool = True
    says_length: bool = True
    redirects: dict[str, str] = field(default_factory=dict)
    faults: list[Callable[["Handler"], None]] = field(default_factory=list)
    asked: list[tuple[str, str | None]] = field(default_factory=list)
    over: threading.Event = field(default_factory=threading.Event)

    @property
    def paths(self) -> list[str]:
        return [path for path, _ in self.asked]


class Handler(BaseHTTPRequestHandler):
    site: Site

    def do_GET(self) -> None:
        # A proxy is asked for the whole address.
        name = self.path.rpartition("/")[2]
        self.site.asked.append((self.path, self.headers["Range"]))
        if self.site.faults:
            self.site.faults.pop(0)(self)
        elif name in self.site.redirects:
            self.answer(302, b"", Location=self.site.redirects[name])
        elif name in self.site.files:
            self.send_file(self.site.files[name])
        else:
            self.answer(404, b"no such file")

    def send_file(self, data: bytes, upto: int | None = None) -> None:
        start = int((self.headers["Range"] or "bytes=0-").removeprefix("bytes=").rstrip("-"))
        headers = {"ETag": self.site.etag} if self.site.etag else {}
        if start and self.site.knows_ranges and self.headers["If-Range"] == self.site.etag:
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
            self.answer(206, data[start:], upto, **headers)
        else:
            self.answer(200, data, upto, **headers)

    def answer(self, status: int, body: bytes, upto: int | None = None, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        if self.site.says_length:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[:upto])

    def log_message(self, *_: object) -> None: ...


def break_off(handler: Handler) -> None:
    handler.send_file(CONTENT[LARGE], HALF)


def hang(handler: Handler) -> None:
    handler.site.over.wait(20)


def fail_with(status: int) -> Callable[[Handler], None]:
    return lambda handler: handler.answer(status, b"")


@contextmanager
def open_site(site: Site, context: ssl.SSLContext | None = None) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("OfSite", (Handler,), {"site": site}))
    if context:
        server.socket = context.wrap_socket(server.socket, server_side=True)
    with serving(server) as url:
        try:
            yield url.replace("http:", "https:") if context else url
        finally:
            site.over.set()


@pytest.fixture
def site() -> Site:
    return Site()


@pytest.fixture
def url(site: Site) -> Iterator[str]:
    with open_site(site) as url:
        yield url


@pytest.fixture(autouse=True)
def impatience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short waits, and no proxy but those of a test."""
    monkeypatch.setattr(https, "RETRIES", urllib3.Retry(total=2, backoff_factor=0))
    monkeypatch.setattr(https, "TIMEOUT", urllib3.Timeout(connect=2, read=0.3))
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def models(tmp_path: Path) -> Path:
    folder = tmp_path / "models"
    folder.mkdir()
    return folder


def write_manifest(
    models: Path, url: str, *, hashes: dict[str, str] = SHA, sizes: dict[str, int] | None = None
) -> Path:
    sizes = {name: len(data) for name, data in CONTENT.items()} | (sizes or {})
    lines = ['name = "toy"', 'licence = "for tests"', "commercial_use = true", "similarity_threshold = 0.5", "[files]"]
    lines += [f'"{name}" = "{sha256}"' for name, sha256 in hashes.items()]
    lines += ["[detector]", 'kind = "scrfd"', 'file = "detector.onnx"']
    lines += ["[embedder]", 'file = "embedder.onnx"', "dimension = 128", "[source]", 'kind = "https"']
    for name, size in sizes.items():
        lines += [f'[source.files."{name}"]', f'url = "{url}/packs/{name}"', f"size_bytes = {size}"]
    path = models / "toy.toml"
    path.write_text("\n".join(lines), "utf-8")
    return path


def read_weights(models: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (models / "toy").iterdir() if path.name != ".lock"}


def test_the_files_come_from_their_addresses_once(models: Path, site: Site, url: str) -> None:
    write_manifest(models, url)
    for _ in range(2):
        assert PackStore(models).install("toy").weights == models / "toy"
    assert read_weights(models) == CONTENT
    assert site.paths == ["/packs/detector.onnx", "/packs/embedder.onnx"]


def test_a_download_that_broke_off_goes_on_where_it_was(models: Path, site: Site, url: str) -> None:
    write_manifest(models, url)
    site.faults = [lambda handler: handler.send_file(CONTENT[SMALL]), break_off, break_off]
    PackStore(models).install("toy")
    assert read_weights(models) == CONTENT
    assert [asked for path, asked in site.asked if path.endswith(LARGE)] == [None, f"bytes={HALF}-"]


def test_what_one_process_has_fetched_the_next_goes_on_from(
    models: Path, site: Site, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_manifest(models, url)
    monkeypatch.setattr(https, "RETRIES", urllib3.Retry(total=0))
    site.faults = [lambda handler: handler.send_file(CONTENT[SMALL]), break_off]
    with pytest.raises(BadModelPack, match=r"can't be fetched from .*embedder\.onnx: .*\(tried 0 times more\)"):
        PackStore(models).install("toy")
    assert not (models / "toy" / SMALL).exists(), "half a pack looks installed"
    PackStore(models).install("toy")
    assert read_weights(models) == CONTENT
    assert site.asked[2:] == [("/packs/embedder.onnx", f"bytes={HALF}-")]


def break_and_change(handler: Handler) -> None:
    break_off(handler)
    handler.site.etag = '"second"'


def break_and_forget_ranges(handler: Handler) -> None:
    break_off(handler)
    handler.site.knows_ranges = False


@pytest.mark.parametrize("fault", [break_and_change, break_and_forget_ranges], ids=["changed", "without ranges"])
def test_a_server_that_has_another_file_now_or_knows_no_ranges_is_asked_for_all_of_it(
    models: Path, site: Site, url: str, fault: Callable[[Handler], None]
) -> None:
    write_manifest(models, url)
    site.faults = [lambda handler: handler.send_file(CONTENT[SMALL]), fault]
    # What came first was of another version.
    new = CONTENT[LARGE] if fault is break_and_forget_ranges else CONTENT[LARGE][::-1]
    site.files[LARGE] = new
    write_manifest(models, url, hashes={**SHA, LARGE: hashlib.sha256(new).hexdigest()})
    PackStore(models).install("toy")
    assert read_weights(models)[LARGE] == new


def test_without_a_version_of_the_file_no_range_is_asked_for(models: Path, site: Site, url: str) -> None:
    write_manifest(models, url)
    site.etag = None
    site.faults = [lambda handler: handler.send_file(CONTENT[SMALL]), break_off]
    PackStore(models).install("toy")
    assert read_weights(models) == CONTENT
    assert {asked for _, asked in site.asked} == {None}


@pytest.mark.parametrize("says_length", [True, False])
@pytest.mark.parametrize("wrong", [len(CONTENT[SMALL]) - 1, 5])
def test_a_file_of_another_size_is_refused(
    models: Path, site: Site, url: str, wrong: int, *, says_length: bool
) -> None:
    site.says_length = says_length
    write_manifest(models, url, sizes={SMALL: wrong})
    told = "12" if says_length else f"more than {wrong}"
    with pytest.raises(BadModelPack, match=rf"it has {told} bytes, not {wrong} as the manifest says\. Put right"):
        PackStore(models).install("toy")
    assert len(site.asked) == 1
    assert SMALL not in read_parts(models)


def read_parts(models: Path) -> set[str]:
    return {path.name for path in (models / "toy" / PARTS).iterdir()}


def test_a_file_of_another_hash_is_removed_and_refused(models: Path, site: Site, url: str) -> None:
    write_manifest(models, url)
    site.files[LARGE] = CONTENT[LARGE][::-1]
    with pytest.raises(BadModelPack, match=rf"has sha256 [0-9a-f]{{64}}, not {SHA[LARGE]} .* It was removed"):
        PackStore(models).install("toy")
    assert not {LARGE, f"{LARGE}.version"} & read_parts(models)
    site.files[LARGE] = CONTENT[LARGE]
    PackStore(models).install("toy")
    assert read_weights(models) == CONTENT


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_file_that_is_not_there_or_forbidden_is_not_asked_for_again(
    models: Path, site: Site, url: str, status: int
) -> None:
    write_manifest(models, url)
    site.faults = [fail_with(status)]
    with pytest.raises(BadModelPack, match=rf"packs/detector\.onnx: the server answers {status}\. Put right the addr"):
        PackStore(models).install("toy")
    assert len(site.asked) == 1


@pytest.mark.parametrize("fault", [fail_with(500), fail_with(503), fail_with(429), hang])
def test_a_server_that_fails_or_hangs_is_asked_again(
    models: Path, site: Site, url: str, fault: Callable[[Handler], None]
) -> None:
    write_manifest(models, url)
    site.faults = [fault, fault]
    PackStore(models).install("toy")
    assert read_weights(models) == CONTENT


def test_a_server_that_hangs_for_good_is_given_up_with_what_to_do(models: Path, site: Site, url: str) -> None:
    write_manifest(models, url)
    site.faults = [hang] * 9
    with pytest.raises(
        BadModelPack, match=r"Read timed out.* \(tried 2 times more\)\. Where .* set HTTPS_PROXY, or .* MODEL_SOURCE\."
    ):
        PackStore(models).install("toy")
    assert len(site.asked) == 3


def test_a_server_that_trickles_is_given_up(
    models: Path, site: Site, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def trickle(handler: Handler) -> None:
        handler.answer(200, CONTENT[SMALL], 0)
        for _ in range(20):
            handler.wfile.write(b"a")
            if handler.site.over.wait(0.1):
                return

    monkeypatch.setattr(https, "EXTRA_S", 0)
    monkeypatch.setattr(https, "LEAST_BYTES_PER_S", 40)
    write_manifest(models, url)
    site.faults = [trickle]
    with pytest.raises(BadModelPack, match="it comes at less than 40 bytes/s"):
        PackStore(models).install("toy")


def test_without_a_way_to_the_host_the_refusal_says_what_to_do(models: Path) -> None:
    write_manifest(models, "https://weights.invalid")
    with pytest.raises(
        BadModelPack,
        match=r"fetched from https://weights\.invalid/packs/detector\.onnx: Failed to resolve 'weights\.invalid'.*"
        r"Where this machine has no way to the internet, set HTTPS_PROXY, or put the files of the pack into a bucket",
    ):
        PackStore(models).install("toy")


def test_redirects_are_followed_but_only_to_https(models: Path, site: Site, url: str) -> None:
    write_manifest(models, url)
    site.redirects = {SMALL: f"{url}/elsewhere/one", "one": "two"}
    site.files["two"] = CONTENT[SMALL]
    PackStore(models).install("toy")
    assert site.paths[:3] == ["/packs/detector.onnx", "/elsewhere/one", "/elsewhere/two"]
    (models / "toy" / SMALL).unlink()
    site.redirects = {SMALL: "http://example.com/detector.onnx?signature=secret"}
    with pytest.raises(BadModelPack, match=r"redirects to http://example\.com, which is not https") as caught:
        PackStore(models).install("toy")
    assert "secret" not in str(caught.value)
    site.redirects = {SMALL: SMALL}
    with pytest.raises(BadModelPack, match="redirects more than 5 times"):
        PackStore(models).install("toy")


@pytest.mark.parametrize(
    ("url", "is_secure"),
    [
        ("https://example.com/a.onnx", True),
        ("http://example.com/a.onnx", False),
        ("http://127.0.0.1:8000/a.onnx", True),
        ("http://localhost/a.onnx", True),
        ("http://[::1]/a.onnx", True),
        ("http://localhost.example.com/a.onnx", False),
        ("http://127.0.0.1@example.com/a.onnx", False),
        ("ftp://example.com/a.onnx", False),
        ("https:///a.onnx", False),
        ("a.onnx", False),
    ],
)
def test_plain_http_is_for_this_machine_alone(models: Path, url: str, *, is_secure: bool) -> None:
    assert is_secure_url(url) == is_secure
    path = write_manifest(models, "https://example.com")
    path.write_text(path.read_text("utf-8").replace("https://example.com/packs/detector.onnx", url), "utf-8")
    if is_secure:
        assert read_manifest(path).source.files[SMALL].url == url
    else:
        with pytest.raises(BadModelPack, match=r"source\.files\.detector\.onnx\.url: .*must be an https:// address"):
            read_manifest(path)


def test_a_file_without_an_address_is_refused(models: Path) -> None:
    path = write_manifest(models, "https://example.com")
    path.write_text(path.read_text("utf-8").partition('[source.files."embedder')[0], "utf-8")
    with pytest.raises(BadModelPack, match=r"\[source\.files\] lacks the address of embedder\.onnx"):
        read_manifest(path)


def make_certificate(folder: Path) -> tuple[ssl.SSLContext, Path]:
    """A server's context with a certificate of its own for 127.0.0.1, and the file to trust it by."""
    key, name = ec.generate_private_key(ec.SECP256R1()), x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    trusted, secret = folder / "certificate.pem", folder / "key.pem"
    trusted.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    secret.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(trusted, secret)
    return context, trusted


def test_https_is_spoken_with_a_server_whose_certificate_is_trusted_and_with_no_other(
    models: Path, site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context, trusted = make_certificate(tmp_path)
    with open_site(site, context) as url:
        write_manifest(models, url)
        with pytest.raises(BadModelPack, match="certificate verify failed"):
            PackStore(models).install("toy")
        assert site.asked == []
        monkeypatch.setenv("SSL_CERT_FILE", str(trusted))
        PackStore(models).install("toy")
    assert read_weights(models) == CONTENT


def test_the_proxy_of_the_environment_is_asked_except_for_hosts_that_need_none(
    models: Path, site: Site, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    direct = Site()
    with open_site(direct) as elsewhere:
        write_manifest(models, elsewhere)
        monkeypatch.setenv("HTTP_PROXY", url.removeprefix("http://"))
        PackStore(models).install("toy")
        assert direct.asked == []
        assert site.paths == [f"{elsewhere}/packs/{name}" for name in CONTENT]
        (models / "toy" / SMALL).unlink()
        monkeypatch.setenv("NO_PROXY", "example.com,127.0.0.1")
        PackStore(models).install("toy")
    assert direct.paths == [f"/packs/{name}" for name in CONTENT]
    assert len(site.asked) == 2


def test_an_https_address_goes_through_a_tunnel_of_the_https_proxy_with_its_password(
    models: Path, site: Site, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[str, str | None]] = []

    def refuse_tunnel(handler: Handler) -> None:
        seen.append((handler.path, handler.headers["Proxy-Authorization"]))
        handler.send_error(407)

    monkeypatch.setattr(Handler, "do_CONNECT", refuse_tunnel, raising=False)
    write_manifest(models, "https://weights.invalid")
    monkeypatch.setenv("https_proxy", url.replace("http://", "http://me:p%40ss@"))
    with pytest.raises(BadModelPack, match=r"Unable to connect to proxy|Tunnel connection failed") as caught:
        PackStore(models).install("toy")
    assert seen[0] == ("weights.invalid:443", "Basic bWU6cEBzcw==")
    assert "p@ss" not in str(caught.value)
    assert "p%40ss" not in str(caught.value)


def test_the_model_bucket_is_asked_first_and_the_publisher_never(models: Path, site: Site, url: str) -> None:
    asked: list[str] = []

    def download(address: str, target: Path) -> None:
        asked.append(address)
        target.write_bytes(CONTENT[target.name])

    write_manifest(models, url)
    PackStore(models, model_source="s3://ours/packs/", download=download).install("toy")
    assert asked == [f"s3://ours/packs/toy/{name}" for name in CONTENT]
    assert site.asked == []
    assert read_weights(models) == CONTENT


def test_a_manifest_without_hashes_is_told_them_and_installed_once_they_are_written_down(
    models: Path, site: Site, url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_manifest(models, url, hashes={})
    command = ["--models-dir", str(models), "install", str(path)]
    assert main(command) == BadModelPack.exit_code
    printed = capsys.readouterr()
    assert printed.out.splitlines() == ["[files]", *(f'"{name}" = "{sha256}"' for name, sha256 in SHA.items())]
    assert f"Not installed: {path} lacks these hashes" in printed.err
    assert not (models / "toy" / SMALL).exists()
    path.write_text(path.read_text("utf-8").replace("[files]\n", printed.out), "utf-8")
    assert main(command) == 0
    assert read_weights(models) == CONTENT
    assert len(site.asked) == 2, "it was downloaded again"


def test_of_a_manifest_with_some_hashes_the_others_are_told(
    models: Path, url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_manifest(models, url, hashes={SMALL: SHA[SMALL]})
    assert main(["--models-dir", str(models), "install", str(path)]) == BadModelPack.exit_code
    assert capsys.readouterr().out.splitlines() == ["[files]", f'"{LARGE}" = "{SHA[LARGE]}"']


def test_no_service_starts_with_a_manifest_without_hashes(
    models: Path, site: Site, url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_manifest(models, url, hashes={})
    settings = {
        "MODEL_PACK": str(path),
        "MODELS_DIR": str(models),
        "AWS_DEFAULT_REGION": "eu-central-1",
        "QUEUE_URL": "http://127.0.0.1:1/q",
        "GROUP_FACE_QUEUE_URL": "http://127.0.0.1:1/g",
        "BUCKET_NAME": "photos",
        "FACE_GROUP_BUCKET_NAME": "results",
        "GALLERY_IMAGES_MONGO_URI": "mongodb://127.0.0.1:1",
        "HUEMN_MONGO_URI": "mongodb://127.0.0.1:1",
    }
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    for service in ("detection", "grouping"):
        assert run(service) == BadModelPack.exit_code
        assert "has no hash of detector.onnx, embedder.onnx. Run `python -m app.packs" in capsys.readouterr().err
    assert site.asked == []


@pytest.mark.parametrize("path", sorted((ROOT / "models" / "examples").glob("*.toml")), ids=lambda path: path.stem)
def test_the_examples_are_valid_and_lack_only_their_hashes(path: Path) -> None:
    manifest = read_manifest(path)
    assert manifest.name == path.stem
    assert manifest.commercial_use
    assert manifest.files == {}
    assert set(manifest.missing_hashes) == {manifest.embedder.file, *manifest.detector.used_files}
    assert all(remote.url.startswith("https://") for remote in manifest.source.files.values())
