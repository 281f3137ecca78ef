"""Models from Hugging Face's hub: its own client asks a server of this machine."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys

import pytest

from scbignn_infer.errors import BundleError
from scbignn_infer.sharing.hub import find_on_hub

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def hub(server, packed):
    """Return a server that answers as the hub does, with one repository."""

    def tell(*names, sha=COMMIT):
        about = {"id": "lab/toy", "sha": sha, "siblings": [{"rfilename": n} for n in names]}
        server["/api/models/lab/toy"] = json.dumps(about).encode()
        server["/api/models/lab/toy/revision/v1"] = json.dumps(about).encode()

    server.tell = tell
    tell("README.md", "toy.scbignn.zip")
    server[f"/lab/toy/resolve/{COMMIT}/toy.scbignn.zip"] = packed.read_bytes()
    return server


@pytest.fixture
def install(hub, home, tmp_path):
    def install(*arguments, code=0, **environment):
        variables = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "hf"), **environment}
        command = [sys.executable, "-m", "scbignn_infer.cli", "models", "install", *arguments]
        done = subprocess.run(
            command, capture_output=True, text=True, env=os.environ | variables, timeout=100
        )
        assert done.returncode == code, done.stderr
        assert code == 0 or len(done.stderr.splitlines()) == 1, done.stderr
        assert code == 0 or not list(home.iterdir())
        return done

    return install


@pytest.mark.parametrize("address", ["hf://lab/toy", "hf://lab/toy@v1/toy.scbignn.zip"])
def test_a_repository_is_installed_at_its_commit(install, home, packed, hub, address):
    done = json.loads(install(address, "--json").stdout)
    assert done["source"] == f"hf://lab/toy@{COMMIT}/toy.scbignn.zip"
    assert done["sha256"] == hashlib.sha256(packed.read_bytes()).hexdigest()
    assert (home / "toy.scbignn.zip").read_bytes() == packed.read_bytes()
    assert all("Authorization" not in headers for _, headers in hub.requests)


def test_a_token_opens_a_private_one_and_goes_to_the_hub_alone(install, hub, packed):
    def elsewhere(request):
        request.send_response(302)
        there = hub.url.replace("localhost", "127.0.0.1")
        request.send_header("Location", f"{there}/stored?signature=1")
        request.send_header("Content-Length", "0")
        request.end_headers()

    hub[f"/lab/toy/resolve/{COMMIT}/toy.scbignn.zip"] = elsewhere
    hub["/stored"] = packed.read_bytes()
    install("hf://lab/toy", HF_TOKEN="hf_own")
    sent = {path: headers.get("Authorization") for path, headers in hub.requests}
    assert sent["/stored?signature=1"] is None
    assert {token for path, token in sent.items() if "lab/toy" in path} == {"Bearer hf_own"}


def test_a_repository_without_or_with_several_models_is_refused(install, hub):
    hub.tell("README.md", "model.onnx")
    assert "0 packed models at hf://lab/toy (none)" in install("hf://lab/toy", code=1).stderr
    hub.tell("a.scbignn.zip", "b.scbignn.zip", "\x1b[2J.scbignn.zip")
    line = install("hf://lab/toy", code=1).stderr
    assert "3 packed models" in line
    assert line.rstrip("\n").isprintable()


def test_a_hub_that_answers_strangely_is_refused(install, hub):
    hub.tell("toy.scbignn.zip", sha="../../other")
    install("hf://lab/toy", code=1)
    hub.tell("../../../x.scbignn.zip")
    install("hf://lab/toy", code=1)
    hub["/api/models/lab/toy"] = b"<html>"
    assert "the hub does not show hf://lab/toy" in install("hf://lab/toy", code=1).stderr


def test_a_repository_that_is_not_there_or_a_hub_that_may_not_be_asked(install, hub, plain_server):
    assert "the hub does not show" in install("hf://lab/toy@v2", code=1).stderr
    line = install("hf://lab/toy", code=1, HF_HUB_OFFLINE="1").stderr
    assert "the hub does not show" in line
    about = {"id": "lab/toy", "sha": COMMIT, "siblings": [{"rfilename": "toy.scbignn.zip"}]}
    plain_server["/api/models/lab/toy"] = json.dumps(about).encode()
    line = install("hf://lab/toy", code=1, HF_ENDPOINT=plain_server.url).stderr
    assert "begins with https://" in line


def test_a_wrong_checksum_is_refused(install):
    assert "has the SHA-256" in install("hf://lab/toy", "--sha256", "0" * 64, code=1).stderr


@pytest.mark.parametrize(
    "address",
    [
        "hf://",
        "hf://lab",
        "hf://lab/",
        "hf://../x",
        "hf://lab/toy@",
        "hf://lab/toy@a/b@c",
        "hf://a/b?c",
    ],
)
def test_an_address_that_is_none_asks_nobody(address):
    with pytest.raises(BundleError, match="expected hf://owner/name"):
        find_on_hub(address)


def test_what_is_missing_is_named(run, home, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    line = run("models", "install", "hf://lab/toy", code=1).stderr
    assert "the extra 'hub'" in line
