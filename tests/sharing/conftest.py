"""Packed models, a folder to install into, keys, and a server of https on this machine."""

from __future__ import annotations

import datetime as dt
import functools
import http.server
import io
import ipaddress
import json
import ssl
import threading
import zipfile
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING, Any

import pytest

from scbignn_infer.model.bundle import read_bundle
from scbignn_infer.sharing.packing import write_packed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the user's folder of models, which is not there yet."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    return tmp_path / "data" / "scbignn-infer" / "models"


@pytest.fixture
def packed(toy: Path, tmp_path: Path) -> Path:
    """Return the toy as a packed model."""
    path = tmp_path / "sent.scbignn.zip"
    write_packed(read_bundle(toy), path)
    return path


@pytest.fixture
def named(toy: Path, tmp_path: Path) -> Callable[[str], Path]:
    """Return a function that packs the toy under another name, as a hostile author would."""

    def named(name: str) -> Path:
        record = json.loads((toy / "bundle.json").read_bytes())
        path = tmp_path / "named.scbignn.zip"
        files = {f.name: f.read_bytes() for f in toy.iterdir()}
        files["bundle.json"] = json.dumps(record | {"name": name}).encode()
        path.write_bytes(zipped(files))
        return path

    return named


def zipped(files: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    """Return a .zip of some files by name, whatever the names."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in files.items():
            archive.writestr(zipfile.ZipInfo(name), data, method)
    return buffer.getvalue()


@pytest.fixture(scope="session")
def zip_of() -> Callable[..., bytes]:
    return zipped


# --- keys ----------------------------------------------------------------------------------------


def key_pair(folder: Path, name: str, password: bytes | None = None, curve: str = "SECP256R1"):
    from cryptography.hazmat.primitives import serialization as s
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(getattr(ec, curve)())
    locked = s.BestAvailableEncryption(password) if password else s.NoEncryption()
    private, public = folder / f"{name}.pem", folder / f"{name}.pub"
    private.write_bytes(key.private_bytes(s.Encoding.PEM, s.PrivateFormat.PKCS8, locked))
    form = s.PublicFormat.SubjectPublicKeyInfo
    public.write_bytes(key.public_key().public_bytes(s.Encoding.PEM, form))
    return private, public


@pytest.fixture(scope="session")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., tuple[Path, Path]]:
    """Return a function that makes a private and a public key; of one name, only once."""
    folder = tmp_path_factory.mktemp("keys")
    return functools.cache(lambda name="own", **how: key_pair(folder, name, **how))


# --- a server ------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the file of a self-made certificate of this machine, with its key."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives import serialization as s
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    now = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("certificate") / "here.pem"
    secret = key.private_bytes(s.Encoding.PEM, s.PrivateFormat.PKCS8, s.NoEncryption())
    path.write_bytes(secret + made.public_bytes(s.Encoding.PEM))
    return path


class Server:
    """A server of this machine: a path leads to a function that answers a request."""

    def __init__(self, certificate: Path | None) -> None:
        self.routes: dict[str, Callable[[Any], None]] = {}
        self.requests: list[tuple[str, dict[str, str]]] = []
        self.over = threading.Event()
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                self.close_connection = True
                headers = {name.title(): value for name, value in self.headers.items()}
                outer.requests.append((self.path, headers))
                with suppress(OSError):  # the client has gone away
                    outer.routes[self.path.partition("?")[0]](self)

            do_HEAD = do_GET  # noqa: N815

            def log_message(self, *arguments: Any) -> None:
                pass

        class Quiet(http.server.ThreadingHTTPServer):
            def handle_error(self, *arguments: Any) -> None:  # a client that trusts us not
                pass

        self.server = Quiet(("127.0.0.1", 0), Handler)
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            self.server.socket = context.wrap_socket(
                self.server.socket, server_side=True, do_handshake_on_connect=False
            )
        scheme = "https" if certificate else "http"
        self.url = f"{scheme}://localhost:{self.server.server_port}"

    def __setitem__(self, path: str, answer: bytes | Callable[[Any], None]) -> None:
        """Answer requests of a path with some bytes, or as a function does."""
        self.routes[path] = sends(answer) if isinstance(answer, bytes) else answer


def sends(data: bytes, length: int | None = None, code: int = 200) -> Callable[[Any], None]:
    """Return what answers with some bytes and says of what length they are."""

    def answer(request: Any) -> None:
        request.send_response(code)
        request.send_header("Content-Length", str(len(data) if length is None else length))
        request.end_headers()
        request.wfile.write(data)

    return answer


@contextmanager
def running(certificate: Path | None) -> Iterator[Server]:
    server = Server(certificate)
    thread = threading.Thread(target=server.server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield server
    finally:
        server.over.set()
        server.server.shutdown()
        thread.join()
        server.server.server_close()


@pytest.fixture
def server(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """Return a server of https whose certificate is trusted, by the variable that OpenSSL reads."""
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    for name in ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with ExitStack() as stack:
        yield stack.enter_context(running(certificate))


@pytest.fixture
def plain_server() -> Iterator[Server]:
    """Return a server of http."""
    with running(None) as server:
        yield server
