"""A packed model has the same bytes each time, and its card is one that the hub reads."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
import zipfile
from pathlib import Path

import huggingface_hub
import pytest

from scbignn_infer.model import registry
from scbignn_infer.model.bundle import read_bundle
from scbignn_infer.sharing.hub_card import hub_card

REPOSITORY = Path(__file__).resolve().parents[2]


def test_the_same_model_gives_the_same_bytes(run, toy, tmp_path):
    one, two, three = (tmp_path / f"{n}.scbignn.zip" for n in "abc")
    done = run("models", "pack", toy, "-o", one)
    assert f"SHA-256 {hashlib.sha256(one.read_bytes()).hexdigest()}" in done.stdout
    copy = tmp_path / "elsewhere" / "copy"
    copy.mkdir(parents=True)
    for file in sorted(toy.iterdir(), reverse=True):  # in another order, with other dates and modes
        shutil.copy(file, copy)
        os.utime(copy / file.name, (1, time.time()))
        (copy / file.name).chmod(0o600)
    (copy / ".DS_Store").write_text("no file of the model")
    run("models", "pack", copy, "-o", two)
    run("models", "pack", one, "-o", three)
    assert one.read_bytes() == two.read_bytes() == three.read_bytes()


def test_bytes_do_not_depend_on_the_machine(run, toy, tmp_path):
    """No compression, no dates, no owners: this checksum is the same on every system."""
    run("models", "pack", toy, "-o", tmp_path / "a.scbignn.zip")
    with zipfile.ZipFile(tmp_path / "a.scbignn.zip") as archive:
        listed = archive.infolist()
    assert [m.filename for m in listed] == sorted(f"toy/{f.name}" for f in toy.iterdir())
    assert {m.compress_type for m in listed} == {zipfile.ZIP_STORED}
    assert {m.date_time for m in listed} == {(1980, 1, 1, 0, 0, 0)}
    assert {(m.create_system, m.external_attr, m.extra) for m in listed} == {
        (3, 0o100644 << 16, b"")
    }


def test_a_packed_model_is_one_by_path_and_by_name(run, toy, tmp_path, monkeypatch):
    (tmp_path / "shelf").mkdir()
    run("models", "pack", toy, "-o", tmp_path / "shelf" / "mine.scbignn.zip")
    assert read_bundle(tmp_path / "shelf" / "mine.scbignn.zip").sha256 == read_bundle(toy).sha256
    monkeypatch.setenv("SCBIGNN_MODEL_PATH", str(tmp_path / "shelf"))
    assert registry.list_models()["mine"] == tmp_path / "shelf" / "mine.scbignn.zip"


def test_a_shipped_model_is_packed_with_its_card(run, tmp_path):
    run("models", "pack", "human-pbmc", "-o", tmp_path / "m.scbignn.zip")
    with zipfile.ZipFile(tmp_path / "m.scbignn.zip") as archive:
        card = archive.read("human-pbmc/README.md")
    assert card == (REPOSITORY / "exported_models" / "human-pbmc" / "README.md").read_bytes()


def test_outputs_are_not_replaced_unasked(run, toy, tmp_path):
    out = tmp_path / "m.scbignn.zip"
    assert "must end in .scbignn.zip" in run("models", "pack", toy, "-o", "m.zip", code=2).stderr
    run("models", "pack", toy, "-o", out)
    assert "exists" in run("models", "pack", toy, "-o", out, code=1).stderr
    (tmp_path / "README.md").write_text("mine")
    other = tmp_path / "n.scbignn.zip"
    run("models", "pack", toy, "-o", other, "--card", tmp_path / "README.md", code=1)
    assert not other.exists()
    assert (tmp_path / "README.md").read_text() == "mine"
    run("models", "pack", toy, "-o", out, "--card", tmp_path / "README.md", "--overwrite")
    assert (
        "no folder" in run("models", "pack", toy, "-o", tmp_path / "no" / out.name, code=1).stderr
    )


@pytest.mark.parametrize("name", ["two words", "con", "naïve"])
def test_a_name_that_could_not_be_installed_is_not_packed(run, change, tmp_path, name):
    folder = change(record=lambda r: r.update(name=name))
    done = run("models", "pack", folder, "-o", tmp_path / "m.scbignn.zip", code=1)
    assert "--name" in done.stderr
    assert not (tmp_path / "m.scbignn.zip").exists()


# --- the card ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", sorted(p.parent.name for p in (REPOSITORY / "exported_models").glob("*/bundle.json"))
)
def test_the_hub_reads_the_card_of_each_shipped_model(run, tmp_path, name):
    out = tmp_path / "m.scbignn.zip"
    done = run("models", "pack", name, "-o", out, "--card", tmp_path / "README.md", "--json")
    card = huggingface_hub.ModelCard.load(tmp_path / "README.md")
    spec = registry.load_model(name).spec
    assert card.data.license == "bsd-3-clause"
    assert card.data.library_name == "scbignn-infer"
    assert {"single-cell", spec.species} <= set(card.data.tags)
    found = {
        (r.dataset_name, r.metric_name or r.metric_type): r.metric_value
        for r in card.data.eval_results or []
    }
    expected = {}
    for study, scores in spec.training.held_out_scores.items():
        expected |= {(study, "accuracy"): scores.accuracy, (study, "macro-F1"): scores.macro_f1}
    assert found == expected
    assert f"--sha256 {json.loads(done.stdout)['sha256']}" in card.text
    own = (REPOSITORY / "exported_models" / name / "README.md").read_text().rstrip()
    assert card.text.lstrip().startswith(own)


def test_texts_of_all_kinds_are_kept(record):
    """They come from strangers: quotes, colons, lines and emoji are no YAML."""
    import msgspec

    from scbignn_infer.model.bundle import BundleSpec

    text = 'a: "b" # c\n- d \U0001f600 {e} \\ %'
    spec = msgspec.convert(record | {"licence": text, "tissue": text}, BundleSpec)
    card = huggingface_hub.ModelCard(hub_card(spec, "---\nlicense: mit\n---\n# Own\n", "0"))
    assert card.data.license == "other"
    assert card.data.to_dict()["license_name"] == text
    assert text in card.data.tags
    assert card.text.lstrip().startswith("# Own")


@pytest.mark.parametrize(
    ("licence", "expected"),
    [("CC BY 4.0", "cc-by-4.0"), ("MIT", "mit"), ("BSD-3-Clause", "bsd-3-clause"), ("", "other")],
)
def test_licences_are_called_as_the_hub_calls_them(record, licence, expected):
    import msgspec

    from scbignn_infer.model.bundle import BundleSpec

    spec = msgspec.convert(record | {"licence": licence}, BundleSpec)
    assert huggingface_hub.ModelCard(hub_card(spec, "", "0")).data.license == expected
