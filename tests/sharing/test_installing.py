"""Packed models are installed whole or not at all, whatever a server or an author does."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import time
import warnings
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import platformdirs
import pytest

import scbignn_infer
from scbignn_infer.errors import BundleError
from scbignn_infer.model import registry
from scbignn_infer.sharing import installing, packing
from scbignn_infer.sharing.download import check_address, download, plain_address

REPOSITORY = Path(__file__).resolve().parents[2]


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def left(home):
    """Return the names of all that is in the folder of models, hidden files too."""
    return sorted(file.name for file in home.iterdir()) if home.exists() else []


# --- what is good --------------------------------------------------------------------------------


def test_a_file_is_installed_and_found_by_name(run, home, packed):
    done = run("models", "install", packed)
    target = home / "toy.scbignn.zip"
    assert f"installed: toy 1.2.3, {target}" in done.stdout
    assert f"SHA-256 {sha256(packed)}" in done.stdout
    assert left(home) == ["toy.json", "toy.scbignn.zip"]
    assert target.read_bytes() == packed.read_bytes()
    assert scbignn_infer.load_model("toy").path == target
    assert stat.S_IMODE(target.stat().st_mode) & 0o044
    note = json.loads((home / "toy.json").read_bytes())
    assert (note["source"], note["sha256"]) == (str(packed), sha256(packed))
    assert note["bundle_sha256"] == scbignn_infer.load_model("toy").sha256
    assert "ok     toy: 4 files" in run("models", "verify", "toy").stdout


def test_an_installed_model_labels_like_the_one_that_was_packed(home, pbmc_bundle, tmp_path):
    shutil.copytree(pbmc_bundle.path, tmp_path / "copy")
    record = json.loads((tmp_path / "copy" / "bundle.json").read_bytes())
    (tmp_path / "copy" / "bundle.json").write_text(json.dumps(record | {"name": "again"}))
    packing.write_packed(scbignn_infer.load_model(tmp_path / "copy"), tmp_path / "a.scbignn.zip")
    installing.install(str(tmp_path / "a.scbignn.zip"))
    counts = np.random.default_rng(0).poisson(1.0, (30, 2000))
    found = [
        scbignn_infer.Annotator.load(m, device="cpu", threads=1)
        .annotate_matrix(counts, pbmc_bundle.gene_symbols[:2000])
        .probabilities
        for m in ("again", "human-pbmc")
    ]
    np.testing.assert_array_equal(*found)


def test_an_address_is_installed_and_no_secret_is_kept(run, home, packed, server):
    server["/m.scbignn.zip"] = packed.read_bytes()
    url = f"{server.url}/m.scbignn.zip?token=secret"
    done = run("models", "install", url, "--sha256", sha256(packed).upper(), "--json")
    assert json.loads(done.stdout)["source"] == f"{server.url}/m.scbignn.zip"
    assert "secret" not in done.output + (home / "toy.json").read_text()
    assert [path for path, _ in server.requests] == ["/m.scbignn.zip?token=secret"]
    assert "Authorization" not in server.requests[0][1]


def test_the_same_file_again_changes_nothing_and_another_needs_overwrite(
    run, home, packed, named, toy
):
    run("models", "install", packed)
    before = (home / "toy.scbignn.zip").stat().st_mtime_ns
    assert "already there: toy" in run("models", "install", packed).stdout
    assert (home / "toy.scbignn.zip").stat().st_mtime_ns == before
    other = named("toy")  # another .zip of the same files
    assert "toy.scbignn.zip exists" in run("models", "install", other, code=1).stderr
    assert sha256(home / "toy.scbignn.zip") == sha256(packed)
    assert "installed: toy" in run("models", "install", other, "--overwrite").stdout
    assert sha256(home / "toy.scbignn.zip") == sha256(other)
    assert "ok     toy" in run("models", "verify", "toy").stdout
    assert left(home) == ["toy.json", "toy.scbignn.zip"]


def test_another_folder_is_told_of_the_variable(run, home, packed, tmp_path, monkeypatch):
    done = run("models", "install", packed, "--folder", tmp_path / "lab" / "models")
    assert f"add {tmp_path / 'lab' / 'models'} to $SCBIGNN_MODEL_PATH" in done.stdout
    assert "toy" not in registry.list_models()
    monkeypatch.setenv("SCBIGNN_MODEL_PATH", str(tmp_path / "lab" / "models"))
    assert "toy" in registry.list_models()
    assert "installed where" not in run("models", "list").stdout
    run("models", "remove", "toy", "--folder", tmp_path / "lab" / "models")
    assert left(tmp_path / "lab" / "models") == left(home) == []


def test_the_folder_is_that_of_the_platform(monkeypatch, tmp_path):
    """By platformdirs as an oracle, which the runtime does without."""
    for name in ("XDG_DATA_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    expected = Path(platformdirs.user_data_dir("scbignn-infer", appauthor=False)) / "models"
    assert registry.user_folder() == expected
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "x"))
    expected = Path(platformdirs.user_data_dir("scbignn-infer", appauthor=False)) / "models"
    assert registry.user_folder() == expected
    monkeypatch.setenv("XDG_DATA_HOME", "relative")
    assert registry.user_folder() == tmp_path / ".local" / "share" / "scbignn-infer" / "models"


@pytest.mark.parametrize(
    ("system", "variable", "place"),
    [
        ("darwin", "HOME", "Library/Application Support/scbignn-infer/models"),
        ("win32", "LOCALAPPDATA", "scbignn-infer/models"),
    ],
)
def test_other_platforms_have_other_folders(monkeypatch, tmp_path, system, variable, place):
    monkeypatch.setattr(registry, "sys", SimpleNamespace(platform=system))
    monkeypatch.setenv(variable, str(tmp_path))
    assert registry.user_folder() == tmp_path / place


def test_a_user_without_a_home_has_models_but_no_place_for_more(run, packed):
    code = (
        "import os, sys\n"
        "os.environ.pop('HOME', None); os.environ.pop('XDG_DATA_HOME', None)\n"
        "import pwd; pwd.getpwuid = lambda uid: (_ for _ in ()).throw(KeyError(uid))\n"
        "from scbignn_infer.cli import main\n"
        "main(sys.argv[1:])"
    )

    def start(*arguments):
        command = [sys.executable, "-c", code, *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True)

    assert "human-pbmc" in start("models", "list").stdout
    refused = start("models", "install", packed)
    assert refused.stderr.startswith("error: this user has no home folder")
    assert len(refused.stderr.splitlines()) == 1


# --- what is not good ----------------------------------------------------------------------------


def test_a_wrong_checksum_is_refused(run, home, packed):
    wrong = sha256(packed)[:-1] + ("0" if sha256(packed)[-1] != "0" else "1")
    line = run("models", "install", packed, "--sha256", wrong, code=1).stderr
    assert f"has the SHA-256 {sha256(packed)}; expected {wrong}; do not use this file" in line
    assert "64 digits" in run("models", "install", packed, "--sha256", wrong[:60], code=2).stderr
    assert left(home) == []


@pytest.mark.parametrize("at", [0.0, 0.01, 0.3, 0.6, 0.9, 0.99, 0.999])
@pytest.mark.parametrize("how", ["cut", "flipped"])
def test_a_broken_file_is_refused(run, home, packed, at, how):
    data = bytearray(packed.read_bytes())
    place = int(at * len(data))
    if how == "cut":
        del data[place:]
    else:
        data[place] ^= 0xFF
    packed.write_bytes(data)
    done = run("models", "install", packed, code=None)
    if done.exit_code == 0:  # a byte that says nothing, such as a date or an owner
        assert how == "flipped"
        assert scbignn_infer.load_model("toy").name == "toy"
        return
    assert str(packed) in done.stderr
    assert done.stderr.rstrip().endswith("nothing was installed")
    assert ".install." not in done.stderr
    assert left(home) == []


def member(name, data=b"x", *, mode=0, flags=0, method=zipfile.ZIP_STORED):
    info = zipfile.ZipInfo("plain")
    info.filename, info.external_attr, info.flag_bits = name, mode << 16, flags
    info.compress_type = method
    return info, data


HOSTILE = {
    "a folder above": member("../evil"),
    "a folder above, inside": member("toy/../../evil"),
    "an absolute path": member("/tmp/evil"),
    "a path of Windows": member("..\\evil"),
    "a drive": member("C:evil"),
    "a hidden file": member(".bashrc"),
    "a deeper folder": member("toy/inner/evil"),
    "another folder": member("other/README.md"),
    "a file that the model does not have": member("toy/setup.py"),
    "a file of Python": member("toy/__init__.py"),
    "a link": member("toy/README.md", b"/etc/passwd", mode=stat.S_IFLNK | 0o777),
    "a device": member("toy/README.md", mode=stat.S_IFCHR | 0o666),
    "a file twice": member("toy/bundle.json"),
    "a file twice, in another case": member("toy/BUNDLE.JSON"),
    "a packing that unpacks unbounded": member("toy/README.md", method=zipfile.ZIP_LZMA),
    "a long card": member("toy/README.md", b"x" * (packing.MAX_BESIDE_BYTES + 1)),
    "a name that ends early": member("toy/README.md\0.exe"),
    "a name that turns text": member("toy/\u202egpj.exe"),
    "a name that steers a terminal": member("toy/\x1b[2J"),
}


@pytest.mark.parametrize("what", sorted(HOSTILE))
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_hostile_zip_is_refused(run, home, packed, tmp_path, what):
    info, data = HOSTILE[what]
    with zipfile.ZipFile(packed, "a") as archive:
        archive.writestr(info, data, info.compress_type)
    before = {p for p in tmp_path.rglob("*") if home not in p.parents}
    done = run("models", "install", packed, code=1)
    assert done.stderr.isascii()
    assert done.stderr.isprintable() or done.stderr.rstrip("\n").isprintable()
    assert left(home) == []
    assert {p for p in tmp_path.rglob("*") if home not in p.parents} - {
        home,
        home.parent,
        home.parent.parent,
    } == before
    assert not Path("/tmp/evil").exists()


def test_a_zip_with_a_password_is_refused(run, home, packed):
    data = bytearray(packed.read_bytes())
    with zipfile.ZipFile(packed) as archive:
        listed = archive.start_dir
    data[6] |= 1
    data[listed + 8] |= 1
    packed.write_bytes(data)
    assert "has a password" in run("models", "install", packed, code=1).stderr
    assert left(home) == []


def test_a_bomb_is_not_unpacked(run, home, toy, tmp_path, zip_of):
    """300 MB of zeros in 300 kB, as a file of the model and beside it."""
    zeros = bytes(300 << 20)
    for name in ("statistics.npz", "README.md"):
        files = {f.name: f.read_bytes() for f in toy.iterdir()} | {name: zeros}
        path = tmp_path / "bomb.scbignn.zip"
        path.write_bytes(zip_of(files, zipfile.ZIP_DEFLATED))
        assert path.stat().st_size < 1 << 20
        run("models", "install", path, code=1)
    assert left(home) == []


@pytest.mark.parametrize(
    "name",
    [
        *("human-pbmc", "Human-PBMC", "mouse-body"),
        *("..", "../evil", "a/b", "a\\b", ".hidden", "con", "NUL", "com1", "aux.v2", "ends."),
        *("two words", "-m", "naïve", "a\nb", "\x1b[2J", "x" * 101),
    ],
)
def test_a_name_that_hides_a_model_or_is_no_file_name_is_refused(run, home, named, name):
    done = run("models", "install", named(name), code=1)
    assert done.stderr.rstrip("\n").isprintable()
    assert left(home) == []
    assert registry.load_model("human-pbmc").path == REPOSITORY / "exported_models" / "human-pbmc"


def test_a_name_that_another_folder_has_is_refused(run, home, packed, toy, monkeypatch):
    monkeypatch.setenv("SCBIGNN_MODEL_PATH", str(toy.parent))
    assert f"there is a model toy at {toy}" in run("models", "install", packed, code=1).stderr
    assert left(home) == []


@pytest.mark.parametrize("broken", ["tables", "record", "graph"])
def test_a_model_that_makes_no_sense_is_refused(run, home, change, tmp_path, zip_of, broken):
    """Its checksums are right."""
    how = {
        "tables": {
            "tables": lambda t: t.update(gene_scale=np.zeros(3)) if "gene_scale" in t else 0
        },
        "record": {"record": lambda r: r.update(temperature=0.0)},
        "graph": {"files": {"gene_level.onnx": b"\x08\x0a"}},
    }
    folder = change(**how[broken])
    path = tmp_path / "m.scbignn.zip"
    path.write_bytes(zip_of({f.name: f.read_bytes() for f in folder.iterdir()}))
    run("models", "install", path, code=1)
    assert left(home) == []


def test_what_is_no_file_is_refused(run, home, toy, tmp_path):
    assert "is a folder" in run("models", "install", toy, code=1).stderr
    assert "models pack" in run("models", "install", toy, code=1).stderr
    assert "No such file" in run("models", "install", tmp_path / "absent", code=1).stderr
    os.mkfifo(tmp_path / "pipe")
    assert "is no regular file" in run("models", "install", tmp_path / "pipe", code=1).stderr
    assert left(home) == []


def test_a_folder_that_cannot_be_made_is_named(run, packed, tmp_path):
    (tmp_path / "file").write_text("")
    done = run("models", "install", packed, "--folder", tmp_path / "file" / "models", code=1)
    assert f"cannot write into {tmp_path / 'file' / 'models'} (Not a directory)" in done.stderr


def test_a_full_disk_leaves_nothing(start, home, packed):
    first = """
        import resource, signal
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
    """
    process = start("models", "install", packed, first=first)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 1
    assert f"cannot write into {home} (File too large)" in stderr
    assert left(home) == []


# --- servers -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "address",
    [
        "http://localhost/m.scbignn.zip",
        "ftp://localhost/m.scbignn.zip",
        "file:///etc/passwd",
        "data://text/plain",
        "HTTPS://",
        "https://",
        "https:///m.zip",
        "https://host:port/m.zip",
        "https://[::1/m.zip",
        "https://host/a b",
        "https://host/\r\nHost: other",
        "https://host/\x1b[2J",
        "https://user:word@host/m.zip",
        "https://user@host/m.zip",
    ],
)
def test_no_other_address_is_asked(run, home, address):
    done = run("models", "install", address, code=1)
    assert done.stderr.rstrip("\n").isprintable()
    assert "word@" not in done.stderr
    assert left(home) == []


def test_plain_addresses_hold_no_secrets():
    assert plain_address("https://a:b@host/x/y.zip?sig=1#2") == "https://host/x/y.zip"
    check_address("https://host:8443/x%20y.zip?a=b")


def test_a_server_that_nobody_vouches_for_is_refused(run, home, packed, server, monkeypatch):
    server["/m.zip"] = packed.read_bytes()
    monkeypatch.delenv("SSL_CERT_FILE")
    assert (
        "certificate verify failed"
        in run("models", "install", f"{server.url}/m.zip", code=1).stderr
    )
    monkeypatch.setenv("SSL_CERT_FILE", os.devnull)
    run("models", "install", f"{server.url}/m.zip", code=1)
    assert left(home) == []
    assert server.requests == []


def leads_to(url, code=302):
    def answer(request):
        request.send_response(code)
        request.send_header("Location", url)
        request.send_header("Content-Length", "0")
        request.end_headers()

    return answer


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
def test_redirects_to_https_are_followed(run, home, packed, server, code):
    server["/there/m.zip"] = packed.read_bytes()
    server["/m.zip"] = leads_to("there/m.zip", code)
    done = json.loads(run("models", "install", f"{server.url}/m.zip", "--json").stdout)
    assert done["sha256"] == sha256(packed)
    assert done["source"] == f"{server.url}/m.zip"


@pytest.mark.parametrize(
    "elsewhere", ["http", "file:///etc/passwd", "ftp://localhost/m.zip", "https://:1/"]
)
def test_redirects_elsewhere_are_not_followed(run, home, packed, server, plain_server, elsewhere):
    plain_server["/m.zip"] = packed.read_bytes()
    server["/m.zip"] = leads_to(f"{plain_server.url}/m.zip" if elsewhere == "http" else elsewhere)
    line = run("models", "install", f"{server.url}/m.zip", code=1).stderr
    assert "begins with https://" in line or "cannot fetch" in line
    assert plain_server.requests == []
    assert left(home) == []


def test_redirects_come_to_an_end(run, home, server):
    server["/m.zip"] = leads_to("/m.zip")
    line = run("models", "install", f"{server.url}/m.zip", code=1).stderr
    assert "leads from address to address" in line
    assert len(server.requests) == 6
    assert left(home) == []


def test_the_body_of_a_redirect_is_not_read(run, home, packed, server):
    """It may have no end."""

    def answer(request):
        request.send_response(302)
        request.send_header("Location", "/there.zip")
        request.end_headers()
        while not server.over.wait(0.001):
            request.wfile.write(bytes(1 << 16))

    server["/m.zip"] = answer
    server["/there.zip"] = packed.read_bytes()
    run("models", "install", f"{server.url}/m.zip")


def test_a_token_goes_to_no_other_host(server, certificate, packed):
    server["/m.zip"] = leads_to(server.url.replace("localhost", "127.0.0.1") + "/there.zip")
    server["/there.zip"] = packed.read_bytes()
    assert b"".join(download(f"{server.url}/m.zip", 1 << 20, token="own")) == packed.read_bytes()
    (_, first), (_, second) = server.requests
    assert first["Authorization"] == "Bearer own"
    assert "Authorization" not in second


@pytest.mark.parametrize("code", [204, 206, 304, 400, 401, 403, 404, 410, 429, 500, 503])
def test_a_server_that_refuses_is_named(run, home, packed, server, code):
    def answer(request):
        request.send_response(code)
        request.send_header("Content-Length", "0")
        request.end_headers()

    server["/m.zip"] = answer
    line = run("models", "install", f"{server.url}/m.zip", code=1).stderr
    assert f"{server.url}/m.zip" in line
    assert left(home) == []


def test_a_page_in_place_of_a_model_is_refused(run, home, server):
    server["/m.zip"] = b"<html>log in</html>"
    line = run("models", "install", f"{server.url}/m.zip", code=1).stderr
    assert f"{server.url}/m.zip: not a readable .zip" in line
    assert left(home) == []


def ends_early(data):
    def answer(request):
        request.send_response(200)
        request.send_header("Content-Length", str(len(data)))
        request.end_headers()
        request.wfile.write(data[: len(data) // 2])

    return answer


def ends_early_in_chunks(data):
    def answer(request):
        request.send_response(200)
        request.send_header("Transfer-Encoding", "chunked")
        request.end_headers()
        request.wfile.write(b"%x\r\n%s\r\n" % (len(data) // 2, data[: len(data) // 2]))

    return answer


def ends_early_without_saying(data):
    def answer(request):
        request.send_response(200)
        request.end_headers()
        request.wfile.write(data[: len(data) // 2])

    return answer


@pytest.mark.parametrize("how", [ends_early, ends_early_in_chunks, ends_early_without_saying])
def test_what_ends_early_is_refused(run, home, packed, server, how):
    server["/m.zip"] = how(packed.read_bytes())
    line = run("models", "install", f"{server.url}/m.zip", code=1).stderr
    assert f"{server.url}/m.zip" in line
    assert left(home) == []


def test_a_size_that_is_too_large_is_refused_before_a_byte_is_taken(run, home, server, packed):
    def answer(request):
        request.send_response(200)
        request.send_header("Content-Length", str(packing.MAX_PACKED_BYTES + 1))
        request.end_headers()

    server["/m.zip"] = answer
    line = run("models", "install", f"{server.url}/m.zip", code=1).stderr
    assert "has 536,870,913 bytes or more" in line
    assert left(home) == []


def test_a_stream_without_an_end_is_cut(server):
    sent = []

    def answer(request):
        request.send_response(200)
        request.end_headers()
        while not server.over.is_set():
            request.wfile.write(bytes(1 << 16))
            sent.append(1 << 16)

    server["/m.zip"] = answer
    with pytest.raises(BundleError, match="or more; expected a packed model, of 1,000,000 bytes"):
        list(download(f"{server.url}/m.zip", 1_000_000))
    assert sum(sent) < 20_000_000


def test_a_silent_server_is_not_waited_for(server):
    server["/m.zip"] = lambda request: server.over.wait(60)
    with pytest.raises(BundleError, match=r"cannot fetch .*timed out"):
        list(download(f"{server.url}/m.zip", 1000, timeout=0.2))


def test_a_slow_server_is_not_waited_for(server):
    """A byte now and then would keep a command for ever."""

    def answer(request):
        request.send_response(200)
        request.send_header("Content-Length", "100000")
        request.end_headers()
        while not server.over.wait(0.02):
            request.wfile.write(b"x")

    server["/m.zip"] = answer
    with pytest.raises(BundleError, match="is too slow: "):
        list(download(f"{server.url}/m.zip", 1 << 20, seconds=0.3))


def test_no_server(run, home):
    assert "cannot fetch" in run("models", "install", "https://localhost:1/m.zip", code=1).stderr
    assert left(home) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_download_leaves_no_model(run, start, until, home, packed, server, number):
    data = packed.read_bytes()

    def answer(request):
        request.send_response(200)
        request.send_header("Content-Length", str(len(data)))
        request.end_headers()
        request.wfile.write(data[:1000])
        server.over.wait(60)

    server["/m.zip"] = answer
    process = start("models", "install", f"{server.url}/m.zip")
    until(lambda: server.requests and left(home))
    process.send_signal(number)
    process.communicate(timeout=60)
    assert process.returncode == (-number if number == signal.SIGKILL else 128 + number)
    if number != signal.SIGKILL:
        assert left(home) == []
    assert "toy" not in registry.list_models()  # and what a killed one leaves is hidden
    run("models", "install", packed)
    assert registry.load_model("toy").name == "toy"


def test_what_killed_commands_left_goes_a_day_later(run, home, packed):
    home.mkdir(parents=True)
    for name, age in ((".install.old.scbignn.zip", 90_000), (".install.new.scbignn.zip", 80_000)):
        (home / name).write_bytes(b"x")
        os.utime(home / name, (time.time() - age,) * 2)
    run("models", "install", packed)
    assert left(home) == [".install.new.scbignn.zip", "toy.json", "toy.scbignn.zip"]


# --- afterwards ----------------------------------------------------------------------------------


def test_remove_deletes_what_was_installed_and_nothing_else(run, home, packed, tmp_path):
    run("models", "install", packed)
    (home / "mine.txt").write_text("kept")
    for name in ("human-pbmc", "absent", "../x", "..", "toy.scbignn.zip", "*", str(packed)):
        line = run("models", "remove", name, code=1).stderr
        assert "expected an installed model: toy" in line
    assert f"removed: {home / 'toy.scbignn.zip'}" in run("models", "remove", "toy").stdout
    assert left(home) == ["mine.txt"]
    assert "there is none" in run("models", "remove", "toy", code=1).stderr


def test_verify_tells_that_an_installed_file_was_changed(run, home, packed, named):
    run("models", "install", packed)
    shutil.copy(named("toy"), home / "toy.scbignn.zip")  # a whole model, and another file
    done = run("models", "verify", "toy", code=1)
    assert f"not the file that was installed from {packed}" in done.stdout
    (home / "toy.json").write_text("{}")
    assert "cannot be read" in run("models", "verify", "toy", code=1).stdout
    (home / "toy.json").unlink()
    run("models", "verify", "toy")


def test_nothing_of_a_model_is_run(home, packed):
    """Neither its graphs nor any other program."""
    code = (
        "import sys\n"
        "def watch(event, arguments):\n"
        "    assert event.split('.')[0] not in ('subprocess', 'socket', 'pickle'), event\n"
        "    assert event not in ('os.system', 'os.exec', 'os.fork', 'os.posix_spawn'), event\n"
        "sys.addaudithook(watch)\n"
        "from scbignn_infer.cli import main\n"
        "main(sys.argv[1:], standalone_mode=False)\n"
        "assert 'onnxruntime' not in sys.modules\n"
    )
    command = [sys.executable, "-c", code, "models", "install", str(packed)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert left(home) == ["toy.json", "toy.scbignn.zip"]


def test_labelling_loads_nothing_of_this():
    code = (
        "import sys, numpy as np, scbignn_infer\n"
        "a = scbignn_infer.Annotator.load('human-pbmc', device='cpu', threads=1)\n"
        "a.annotate_matrix(np.ones((3, 300)), a.bundle.gene_symbols[:300])\n"
        "wrong = [m for m in sys.modules if m.split('.')[0] in\n"
        "         ('huggingface_hub', 'model_signing', 'sigstore', 'platformdirs')\n"
        "         or m.startswith('scbignn_infer.sharing')]\n"
        "assert not wrong, wrong"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_library_may_be_used_without_warnings(home, packed):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        done = installing.install(str(packed))
        assert done.new
        assert not installing.install(str(packed)).new
    with zipfile.ZipFile(io.BytesIO(done.path.read_bytes())) as archive:
        assert archive.testzip() is None
