"""A signed model is known by its author's key, without a network; any other is refused."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import sys

import model_signing
import pytest

from scbignn_infer.model import registry
from scbignn_infer.model.bundle import read_bundle
from scbignn_infer.sharing import signatures
from scbignn_infer.sharing.packing import write_packed

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture
def signed(run, toy, keys):
    private, _ = keys()
    (toy / "README.md").write_text("# toy\n")
    run("models", "sign", toy, "--key", private)
    return toy


@pytest.fixture
def sent(signed, tmp_path):
    path = tmp_path / "signed.scbignn.zip"
    write_packed(read_bundle(signed), path)
    return path


def test_a_signed_model_is_verified_and_installed(run, home, keys, signed, sent):
    _, public = keys()
    assert "ok     " in run("models", "verify", signed, "--key", public).stdout
    assert "ok     " in run("models", "verify", sent, "--key", public).stdout
    done = run("models", "install", sent, "--key", public)
    assert f"signed with the key that belongs to {public}" in done.stdout
    assert "ok     toy" in run("models", "verify", "toy", "--key", public).stdout
    assert json.loads((home / "toy.json").read_bytes())["signed_with"]


def test_a_later_check_with_a_key_is_noted(run, home, keys, sent):
    _, public = keys()
    run("models", "install", sent)
    assert json.loads((home / "toy.json").read_bytes())["signed_with"] == ""
    for lost in (False, True):
        if lost:
            (home / "toy.json").unlink()
        assert "already there" in run("models", "install", sent, "--key", public).stdout
        assert json.loads((home / "toy.json").read_bytes())["signed_with"]


def test_a_key_of_another_kind_is_named(run, toy, sent, tmp_path):
    from cryptography.hazmat.primitives import serialization as s
    from cryptography.hazmat.primitives.asymmetric import rsa

    key = rsa.generate_private_key(65537, 2048)
    form = s.PrivateFormat.PKCS8, s.NoEncryption()
    (tmp_path / "rsa.key").write_bytes(key.private_bytes(s.Encoding.PEM, *form))
    public = key.public_key().public_bytes(s.Encoding.PEM, s.PublicFormat.SubjectPublicKeyInfo)
    (tmp_path / "rsa.pub").write_bytes(public)
    for command in (
        ["models", "sign", toy, "--key", tmp_path / "rsa.key"],
        ["models", "verify", sent, "--key", tmp_path / "rsa.pub"],
    ):
        assert "it is no key on an elliptic curve" in run(*command, code=1).stderr


def test_a_model_of_the_package_is_not_signed(run, keys):
    private, _ = keys()
    done = run("models", "sign", "human-pbmc", "--key", private, code=1)
    assert "human-pbmc comes with the package" in done.stderr


def test_a_publisher_signs_by_path(run, keys, tmp_path, monkeypatch):
    """As packaging/sign_models.sh does, in the folder of the models."""
    private, _ = keys()
    shutil.copytree(registry.load_model("human-pbmc").path, tmp_path / "models" / "human-pbmc")
    monkeypatch.setattr(registry, "shipped_folders", lambda: [tmp_path / "models"])
    monkeypatch.chdir(tmp_path)
    run("models", "sign", "./models/human-pbmc", "--key", private)
    assert (tmp_path / "models" / "human-pbmc" / "model.sig").is_file()


def test_the_signature_is_one_of_model_signing(signed, keys):
    """Other tools verify it, too."""
    _private, public = keys()
    how = model_signing.hashing.Config().set_ignored_paths(paths=["model.sig"])
    config = model_signing.verifying.Config().set_hashing_config(how)
    config = config.use_elliptic_key_verifier(public_key=public)
    config.verify(signed, signed / "model.sig")
    (signed / "README.md").write_text("# another\n")
    with pytest.raises(ValueError, match=r"README\.md"):
        config.verify(signed, signed / "model.sig")


def test_a_signature_by_model_signing_is_verified(run, toy, keys):
    private, public = keys()
    config = model_signing.signing.Config().use_elliptic_key_signer(private_key=private)
    config.sign(toy, toy / "model.sig")
    assert "ok     " in run("models", "verify", toy, "--key", public).stdout


def test_an_unsigned_model_is_refused(run, home, packed, keys, toy):
    _, public = keys()
    line = run("models", "install", packed, "--key", public, code=1).stderr
    assert "is not signed; expected the file model.sig" in line
    assert not list(home.iterdir())
    assert "is not signed" in run("models", "verify", toy, "--key", public, code=1).stdout


def test_what_is_not_signed_is_not_run(keys, toy):
    _, public = keys()
    code = (
        "import sys\n"
        "from scbignn_infer.cli import main\n"
        "try: main(sys.argv[1:])\n"
        "except SystemExit as end: assert end.code == 1\n"
        "assert 'onnxruntime' not in sys.modules\n"
    )
    command = [sys.executable, "-c", code, "models", "verify", str(toy), "--key", str(public)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "is not signed" in done.stdout


def test_another_key_is_refused(run, home, sent, signed, keys):
    _, other = keys("other")
    line = run("models", "install", sent, "--key", other, code=1).stderr
    assert "does not hold (Key mismatch" in line
    assert not list(home.iterdir())
    assert "FAILED" in run("models", "verify", signed, "--key", other, code=1).stdout


@pytest.mark.parametrize(
    "name",
    ["README.md", "bundle.json", "cell_level.onnx", "gene_level.onnx", "statistics.npz"],
)
def test_a_changed_file_is_refused(run, home, signed, keys, tmp_path, change, name):
    """The bundle may be right in itself: whoever changes it can write its checksums anew."""
    _, public = keys()
    path = signed / name
    if name == "bundle.json":
        change(record=lambda r: r.update(temperature=2.0))
    elif name == "statistics.npz":
        change(tables=lambda t: t.update(ridge=t["ridge"] * 2) if "ridge" in t else None)
    elif name == "README.md":
        path.write_text("# better than any other\n")
    else:
        change(files={name: path.read_bytes() + b"\x32\x01x"})  # a doc_string
    write_packed(read_bundle(signed), tmp_path / "m.scbignn.zip")
    line = run("models", "install", tmp_path / "m.scbignn.zip", "--key", public, code=1).stderr
    assert "does not hold (Signature mismatch" in line
    assert ("README.md" if name == "README.md" else "bundle.json") in line
    assert not list(home.iterdir())
    run("models", "install", tmp_path / "m.scbignn.zip")  # where no key is demanded


def test_a_file_that_was_not_signed_is_refused(run, home, toy, keys, tmp_path):
    private, public = keys()
    run("models", "sign", toy, "--key", private)
    (toy / "README.md").write_text("# added\n")
    write_packed(read_bundle(toy), tmp_path / "m.scbignn.zip")
    line = run("models", "install", tmp_path / "m.scbignn.zip", "--key", public, code=1).stderr
    assert "README.md" in line
    assert not list(home.iterdir())


def test_a_signature_that_leaves_out_a_file_is_refused(run, toy, keys):
    """model-signing lets its signer leave out files; these could be any."""
    private, public = keys()
    how = model_signing.hashing.Config().set_ignored_paths(paths=["statistics.npz", "model.sig"])
    config = model_signing.signing.Config().set_hashing_config(how)
    config.use_elliptic_key_signer(private_key=private).sign(toy, toy / "model.sig")
    done = run("models", "verify", toy, "--key", public, code=1)
    assert "it leaves out statistics.npz" in done.stdout


def test_the_signature_of_another_model_is_refused(run, signed, keys, named, tmp_path, zip_of):
    _, public = keys()
    path = named("other")
    files = {f.name: f.read_bytes() for f in signed.iterdir()}
    record = json.loads(files["bundle.json"]) | {"name": "other"}
    path.write_bytes(zip_of(files | {"bundle.json": json.dumps(record).encode()}))
    line = run("models", "install", path, "--key", public, code=1).stderr
    assert "does not hold" in line


def envelope(change):
    """Return what changes the signed statement and leaves the signature."""

    def changed(data):
        found = json.loads(data)
        statement = json.loads(base64.b64decode(found["dsseEnvelope"]["payload"]))
        change(statement)
        payload = base64.b64encode(json.dumps(statement).encode()).decode()
        found["dsseEnvelope"]["payload"] = payload
        return json.dumps(found).encode()

    return changed


def without_hint(data):
    found = json.loads(data)
    del found["verificationMaterial"]["publicKey"]["hint"]
    found["dsseEnvelope"]["signatures"][0]["sig"] = base64.b64encode(b"0" * 70).decode()
    return json.dumps(found).encode()


HOSTILE = {
    "empty": lambda data: b"",
    "no JSON": lambda data: b"\xff\xfe",
    "a list": lambda data: b"[]",
    "deep": lambda data: b"[" * 100_000,
    "an empty object": lambda data: b"{}",
    "no signatures": lambda data: data.replace(b'"signatures":', b'"signatures_":'),
    "a null": lambda data: json.dumps(json.loads(data) | {"dsseEnvelope": None}).encode(),
    "another statement": envelope(lambda s: s["predicate"]["resources"].pop()),
    "another digest": envelope(lambda s: s["predicate"]["resources"][0].update(digest="0" * 64)),
    "no key named": without_hint,
    "a steering name": envelope(lambda s: s["subject"][0].update(name="\x1b[2J")),
}


@pytest.mark.parametrize("what", sorted(HOSTILE))
def test_a_signature_that_is_none_is_refused(run, home, signed, keys, tmp_path, what):
    _, public = keys()
    (signed / "model.sig").write_bytes(HOSTILE[what]((signed / "model.sig").read_bytes()))
    write_packed(read_bundle(signed), tmp_path / "m.scbignn.zip")
    done = run("models", "install", tmp_path / "m.scbignn.zip", "--key", public, code=1)
    assert "does not hold" in done.stderr
    assert done.stdout == ""
    assert done.stderr.rstrip("\n").isprintable()
    assert not list(home.iterdir())


# --- keys ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("curve", ["SECP256R1", "SECP384R1", "SECP521R1"])
def test_keys_of_three_curves(run, toy, keys, curve):
    private, public = keys(curve, curve=curve)
    run("models", "sign", toy, "--key", private)
    run("models", "verify", toy, "--key", public)


def test_the_password_of_a_key_is_asked_for(toy, keys):
    from click.testing import CliRunner

    from scbignn_infer.cli import main

    private, _public = keys("locked", password=b"word")
    for word, code in (("wrong\n", 1), ("word\n", 0)):
        done = CliRunner().invoke(main, ["models", "sign", str(toy), "--key", str(private)], word)
        assert done.exit_code == code, done.output
        assert (toy / "model.sig").exists() == (code == 0)
        assert "word\n" not in done.output


def test_a_key_that_is_none_is_named(run, toy, keys, tmp_path):
    private, public = keys()
    sign, verify = ("models", "sign", toy, "--key"), ("models", "verify", toy, "--key")
    assert "it holds no private key" in run(*sign, public, code=1).stderr
    assert "No such file" in run(*sign, tmp_path / "absent", code=1).stderr
    _, odd = keys("odd", curve="SECP256K1")
    run(*sign, private)
    assert "Unsupported key" in run(*verify, odd, code=1).stderr
    assert "it holds no public key" in run(*verify, private, code=1).stderr
    (tmp_path / "broken").write_text(public.read_text()[:60])
    assert "cannot use the public key" in run(*verify, tmp_path / "broken", code=1).stderr


def test_a_signature_is_not_replaced_unasked(run, signed, keys):
    private, _ = keys("another")
    before = (signed / "model.sig").read_bytes()
    assert "exists" in run("models", "sign", signed, "--key", private, code=1).stderr
    assert (signed / "model.sig").read_bytes() == before
    run("models", "sign", signed, "--key", private, "--overwrite")
    assert (signed / "model.sig").read_bytes() != before


def test_a_packed_model_is_signed_before(run, packed, keys):
    private, _ = keys()
    assert "sign the folder" in run("models", "sign", packed, "--key", private, code=1).stderr


def test_no_network_is_used(signed, keys):
    private, public = keys()
    code = (
        "import sys\n"
        "def watch(event, arguments):\n"
        "    assert not event.startswith('socket.') or event in quiet, event\n"
        "quiet = ('socket.__new__', 'socket.bind', 'socket.gethostname')\n"
        "sys.addaudithook(watch)\n"
        "from scbignn_infer.cli import main\n"
        "main(sys.argv[1:], standalone_mode=False)\n"
    )
    for command in (["sign", "--overwrite", "--key", private], ["verify", "--key", public]):
        arguments = ["models", command[0], str(signed), *map(str, command[1:])]
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr


def test_what_is_missing_is_named(run, toy, keys, monkeypatch):
    private, _ = keys()
    monkeypatch.setitem(sys.modules, "model_signing", None)
    for name in [n for n in sys.modules if n.startswith("model_signing.")]:
        monkeypatch.delitem(sys.modules, name)
    line = run("models", "sign", toy, "--key", private, code=1).stderr
    assert "the extra 'sign'" in line
    assert "pyopenssl" in line


def test_a_link_is_read_as_what_it_leads_to(run, signed, keys, tmp_path):
    """What is signed is what is read."""
    _, public = keys()
    shutil.move(signed / "statistics.npz", tmp_path / "s.npz")
    (signed / "statistics.npz").symlink_to(tmp_path / "s.npz")
    run("models", "verify", signed, "--key", public)
    assert not list(tmp_path.glob("scbignn-*"))
    assert signatures.SIGNATURE == "model.sig"


@pytest.fixture
def published(signed, keys, monkeypatch):
    """Let the signed model be a shipped one, of a package that has its publisher's key."""
    _, public = keys()
    monkeypatch.setattr(registry, "shipped_folders", lambda: [signed.parent])
    monkeypatch.setattr(signatures, "PUBLISHER_KEY", public)
    return signed


def test_shipped_models_are_verified_with_the_publishers_key(run, published):
    done = run("models", "verify")
    assert [line.split(", ")[-1] for line in done.stdout.splitlines()] == [
        "signed by the publisher"
    ]
    (entry,) = json.loads(run("models", "verify", "toy", "--json").stdout)["models"]
    assert entry["signature"] == "signed by the publisher"
    (published / "README.md").write_text("# another\n")
    assert "the signature of" in run("models", "verify", code=1).stdout
    (published / "model.sig").unlink()
    assert "is not signed" in run("models", "verify", "toy", code=1).stdout


def test_other_models_need_not_be_signed_by_the_publisher(run, published, tmp_path):
    other = tmp_path / "mine"
    shutil.copytree(published, other / "toy")
    (other / "toy" / "model.sig").unlink()
    done = run("models", "verify", other / "toy")
    assert "signed" not in done.stdout


def test_without_the_extra_shipped_models_are_verified_but_for_their_signature(
    run, published, monkeypatch
):
    monkeypatch.setitem(sys.modules, "model_signing.verifying", None)
    (line,) = run("models", "verify").stdout.splitlines()
    assert line.startswith("ok     toy: ")
    assert "signature not checked: run: pip install 'model-signing>" in line


def test_without_a_key_of_the_publisher_nothing_is_said(run, published, monkeypatch):
    monkeypatch.setattr(signatures, "PUBLISHER_KEY", published / "absent.pub")
    assert "sign" not in run("models", "verify").stdout
