"""The Dockerfile passes hadolint and keeps rules of its own; its parts do what they say.

No engine is needed: the list of requirements and numba's cache are run here by the lines that the
Dockerfile has for them.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[1]
DOCKERFILE = (ROOT / "Dockerfile").read_text()
IGNORE = (ROOT / ".dockerignore").read_text()
Instructions = list[tuple[str, str]]
"""Name and arguments of each, continued lines joined."""


def parse(text: str) -> Instructions:
    lines = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
    joined = lines.replace("\\\n", "").splitlines()
    return [tuple(line.split(maxsplit=1)) for line in joined if line.strip()]


def arguments(found: Instructions, *names: str) -> list[str]:
    return [text for name, text in found if name in names]


def last_stage(found: Instructions) -> Instructions:
    return found[max(i for i, (name, _) in enumerate(found) if name == "FROM") :]


def commands(shell: str) -> Iterator[list[str]]:
    """Yield the words of each command of a RUN."""
    lexer = shlex.shlex(shell, posix=True, punctuation_chars=True)
    lexer.whitespace_split, lexer.commenters = True, ""
    words: list[str] = []
    for word in [*lexer, ";"]:
        if word and set(word) <= set("&|;"):
            yield words
            words = []
        else:
            words.append(word)


def runs(found: Instructions, *words: str) -> list[list[str]]:
    """Return the commands that have all of the words."""
    each = [command for shell in arguments(found, "RUN") for command in commands(shell)]
    return [command for command in each if set(words) <= set(command)]


def copied(found: Instructions) -> list[str]:
    """Return the sources of each COPY from the repository."""
    texts = [text for text in arguments(found, "COPY") if "--from=" not in text]
    return [source for text in texts for source in text.split()[:-1] if source[0] != "-"]


def ignored(path: str, ignore: str) -> bool:
    """Tell whether .dockerignore leaves out a path: the last pattern that matches says so."""
    parts = path.split("/")
    names = ["/".join(parts[: i + 1]) for i in range(len(parts))]
    out = False
    for pattern in ignore.splitlines():
        if not pattern or pattern.startswith("#"):
            continue
        steps = re.split(r"(\*\*/|\*)", pattern.removeprefix("!"))
        meaning = {"**/": "(?:.*/)?", "*": "[^/]*"}
        expression = "".join(meaning.get(step, re.escape(step)) for step in steps)
        if any(re.fullmatch(expression, name) for name in names):
            out = not pattern.startswith("!")
    return out


def environment(found: Instructions) -> dict[str, str]:
    words = [word for text in arguments(found, "ENV", "ARG") for word in shlex.split(text)]
    return dict(word.partition("=")[::2] for word in words)


def ends_as_a_plain_user(found: Instructions, ignore: str) -> list[str]:
    user = [None, *arguments(last_stage(found), "USER")][-1]
    return [] if user and re.fullmatch(r"[1-9]\d*:[1-9]\d*", user) else [f"USER {user}"]


def nothing_is_upgraded(found: Instructions, ignore: str) -> list[str]:
    upgrades = ("upgrade", "dist-upgrade", "full-upgrade")
    return [" ".join(c) for word in upgrades for c in runs(found, "apt-get", word)]


def nothing_secret_is_set(found: Instructions, ignore: str) -> list[str]:
    return [n for n in environment(found) if re.search("PASS|SECRET|TOKEN|KEY|CREDENTIAL", n)]


def sources_are_in_the_context(found: Instructions, ignore: str) -> list[str]:
    wrong = []
    for source in copied(found):
        path = ROOT / source
        files = [path, *(f for f in path.rglob("*") if "__pycache__" not in f.parts)]
        names = [file.relative_to(ROOT).as_posix() for file in files]
        wrong += [name for name in names if ignored(name, ignore)] if path.exists() else [source]
    return wrong


def the_wheel_has_its_parts(found: Instructions, ignore: str) -> list[str]:
    metadata = tomllib.loads((ROOT / "pyproject.toml").read_text())
    hatch = metadata["tool"]["hatch"]
    wheel, hook = hatch["build"]["targets"]["wheel"], hatch["metadata"]["hooks"]["custom"]["path"]
    parts = ["pyproject.toml", "README.md", hook, *metadata["project"]["license-files"]]
    return [
        p for p in [*parts, *wheel["packages"], *wheel["force-include"]] if p not in copied(found)
    ]


def the_package_is_installed_alone(found: Instructions, ignore: str) -> list[str]:
    return [" ".join(c) for c in runs(found, "pip", "install", ".") if "--no-deps" not in c]


def one_onnxruntime_is_installed(found: Instructions, ignore: str) -> list[str]:
    named = [word for command in runs(found, "pip", "install") for word in command]
    wrong = []
    for device in ("cpu", "gpu"):
        names = [
            re.split(r"[\[<>=;!~ ]", need)[0] for need in [*named, *requirements(found, device)]
        ]
        if len(both := [name for name in names if name.startswith("onnxruntime")]) != 1:
            wrong.append(f"{device}: {both}")
    return wrong


def requirements(found: Instructions, device: str) -> list[str]:
    """Run the command that lists what is installed beside the package."""
    (shell,) = [text for text in arguments(found, "RUN") if "> requirements.txt" in text]
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(
        ["sh", "-c", shell.partition("> requirements.txt")[0]],
        cwd=ROOT,
        env=os.environ | {"PATH": path, "DEVICE": device},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.splitlines()


def no_entry_point(found: Instructions, ignore: str) -> list[str]:
    """A workflow engine runs bash in the image."""
    return arguments(found, "ENTRYPOINT")


def ps_is_there(found: Instructions, ignore: str) -> list[str]:
    """Nextflow measures its tasks with it."""
    return [] if runs(last_stage(found), "apt-get", "install", "procps") else ["no procps"]


RULES = (
    ends_as_a_plain_user,
    nothing_is_upgraded,
    nothing_secret_is_set,
    sources_are_in_the_context,
    the_wheel_has_its_parts,
    the_package_is_installed_alone,
    one_onnxruntime_is_installed,
    no_entry_point,
    ps_is_there,
)
TIDY = " && rm -rf /var/lib/apt/lists/*"
BROKEN = (
    (ends_as_a_plain_user, "USER 10001:10001", "USER root"),
    (ends_as_a_plain_user, "USER 10001:10001", "USER 0:0"),
    (ends_as_a_plain_user, "USER 10001:10001\n", ""),
    (ends_as_a_plain_user, "USER 10001:10001", "USER 10001:10001\nUSER root"),
    (nothing_is_upgraded, "WORKDIR /data", f"RUN apt-get update && apt-get -y upgrade{TIDY}"),
    (nothing_is_upgraded, "WORKDIR /data", "RUN apt-get \\\n    dist-upgrade"),
    (nothing_secret_is_set, "HOME=/tmp", "INDEX_TOKEN=abc"),
    (nothing_secret_is_set, "ARG DEVICE=cpu", "ARG DB_PASSWORD"),
    (sources_are_in_the_context, "COPY LICENSE", "COPY LICENCE"),
    (sources_are_in_the_context, "COPY LICENSE", "COPY CHANGELOG.md"),
    (sources_are_in_the_context, "!exported_models\n", ""),
    (sources_are_in_the_context, "**/*.pyc\n", "**/*.onnx\n"),
    (the_wheel_has_its_parts, "COPY exported_models exported_models\n", ""),
    (the_wheel_has_its_parts, "COPY LICENSE README.md", "COPY LICENSE"),
    (the_wheel_has_its_parts, "COPY packaging/readme.py packaging/readme.py\n", ""),
    (the_package_is_installed_alone, "--no-deps .", "."),
    (one_onnxruntime_is_installed, "needs if not need.startswith('onnxruntime')", "needs"),
    (one_onnxruntime_is_installed, "--no-deps .", "--no-deps . onnxruntime"),
    (one_onnxruntime_is_installed, "'gpu': gpu", "'gpu': plain + gpu"),
    (no_entry_point, "CMD [", 'ENTRYPOINT ["scbignn-infer"]\nCMD ['),
    (ps_is_there, "procps", "tini"),
)
needs_sh = pytest.mark.skipif(shutil.which("sh") is None, reason="no shell")


@needs_sh
@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_dockerfile_keeps_the_rule(rule) -> None:
    assert rule(parse(DOCKERFILE), IGNORE) == []


@needs_sh
@pytest.mark.parametrize(("rule", "old", "new"), BROKEN, ids=lambda v: getattr(v, "__name__", None))
def test_the_rule_can_fail(rule, old: str, new: str) -> None:
    assert (old in DOCKERFILE) != (old in IGNORE)
    assert rule(parse(DOCKERFILE.replace(old, new)), IGNORE.replace(old, new)) != []


def test_every_rule_is_seen_to_fail() -> None:
    assert {rule for rule, _, _ in BROKEN} == set(RULES)


@pytest.mark.parametrize(("old", "new"), [("", ""), ("FROM $BASE\n", "FROM python\n")])
def test_hadolint_looks_at_the_dockerfile(old: str, new: str) -> None:
    linter = Path(sys.executable).with_name("hadolint")
    text = DOCKERFILE.replace(old, new)
    done = subprocess.run([linter, "-"], input=text, capture_output=True, text=True)
    assert done.returncode == int(text != DOCKERFILE), done.stdout


@needs_sh
@pytest.mark.parametrize(
    ("device", "runtime"), [("cpu", "onnxruntime>="), ("gpu", "onnxruntime-gpu[cuda,cudnn]>=")]
)
def test_requirements_are_the_package_s_with_one_onnxruntime(device: str, runtime: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    *others, last = requirements(parse(DOCKERFILE), device)
    assert others == [n for n in project["dependencies"] if not n.startswith("onnxruntime")]
    assert last.startswith(runtime)


@needs_sh
def test_an_unknown_device_stops_the_build() -> None:
    with pytest.raises(subprocess.CalledProcessError) as caught:
        requirements(parse(DOCKERFILE), "tpu")
    assert "KeyError: 'tpu'" in caught.value.stderr


@pytest.mark.parametrize(
    "path",
    [
        ".git/config",
        ".env",
        ".venv/pyvenv.cfg",
        "tests/test_docker.py",
        "training/recipes/human-pbmc.toml",
        "scbignn_infer/__pycache__/bundle.cpython-312.pyc",
        "scbignn_infer/query/readers/tables.pyc",
    ],
)
def test_the_context_leaves_out_what_is_not_copied(path: str) -> None:
    assert ignored(path, IGNORE)


def test_the_image_runs_the_command_and_writes_only_below_tmp() -> None:
    found = last_stage(parse(DOCKERFILE))
    assert [json.loads(text) for text in arguments(found, "CMD")] == [["scbignn-infer", "--help"]]
    values = environment(found)
    assert values["HOME"] == "/tmp"
    assert values["PYTHONDONTWRITEBYTECODE"] == values["ORT_DISABLE_TELEMETRY"] == "1"


def test_both_stages_compile_for_the_same_processor() -> None:
    found = parse(DOCKERFILE)
    build, final = (environment(s) for s in (found[: -len(last_stage(found))], last_stage(found)))
    assert final["NUMBA_CPU_NAME"] == build["NUMBA_CPU_NAME"] == "generic"
    assert final["NUMBA_CACHE_DIR"] == build["NUMBA_CACHE_DIR"]


def test_processes_copy_the_cache_of_the_image_and_leave_it_alone(tmp_path: Path) -> None:
    ((_, _, *lines, _, target),) = runs(parse(DOCKERFILE), "printf")
    (tmp_path / Path(target).name).write_text("\n".join(lines) + "\n")
    (tmp_path / "twice.py").write_text(
        "import numba\n\n@numba.njit(cache=True)\ndef twice(x):\n    return x + x\n"
    )
    cache, temporary = tmp_path / "cache", tmp_path / "tmp"
    temporary.mkdir()

    def call(argument: str, **settings: str) -> str:
        values = {"NUMBA_CACHE_DIR": str(cache), "NUMBA_DEBUG_CACHE": "1", **settings}
        done = subprocess.run(
            [sys.executable, "-c", f"from twice import twice; print(twice({argument}))"],
            cwd=tmp_path,
            env=os.environ | values | {"TMPDIR": str(temporary)},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert "data saved" in call("2")
    files = {file: file.read_bytes() for file in cache.rglob("*.nb?")}
    assert files
    locator = environment(last_stage(parse(DOCKERFILE)))["NUMBA_CACHE_LOCATOR_CLASSES"]
    hit, miss = (call(x, NUMBA_CACHE_LOCATOR_CLASSES=locator) for x in ("2", "2.5"))
    assert f"data loaded from '{temporary}" in hit
    assert hit.splitlines()[-1] == "4"
    assert f"data saved to '{temporary}" in miss
    assert miss.splitlines()[-1] == "5.0"
    assert files == {file: file.read_bytes() for file in cache.rglob("*.nb?")}
    assert list(temporary.iterdir()) == []
