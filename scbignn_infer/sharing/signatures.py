"""Signatures of models with a key, by the package model-signing; no network is used."""

from __future__ import annotations

import base64
import io
import json
import tempfile
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scbignn_infer.errors import BundleError, InputError, MissingExtraError, reason
from scbignn_infer.model.archives import one_line
from scbignn_infer.output.atomic import replacing
from scbignn_infer.sharing.packing import SIGNATURE, contents

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from scbignn_infer.model.bundle import ModelBundle

MAX_KEY_BYTES = 1 << 16
PUBLISHER_KEY = Path(__file__).with_name("publisher.pub")
"""The public key of whoever publishes this package, where its models are signed."""


def sign(bundle: ModelBundle, key: Path, password: Callable[[], str], *, overwrite: bool) -> Path:
    """Sign a bundle with a private key; returns the signature, a file in the bundle's folder.

    ``password`` is asked if the key needs one.
    """
    signing = _package("signing")
    if not bundle.path.is_dir():
        raise InputError(
            f"{bundle.path} is packed",
            expected="the folder of a model, as 'train' writes it",
            do="sign the folder, then pack it",
        )
    target = bundle.path / SIGNATURE
    with _written(bundle.name, contents(bundle)) as folder, _key(key, "private") as own:
        config = signing.Config()
        try:
            config.use_elliptic_key_signer(private_key=own)
        except TypeError:  # cryptography's way to say that it needs a password
            try:
                config.use_elliptic_key_signer(private_key=own, password=password().encode())
            except Exception as error:  # noqa: BLE001 - of several libraries
                raise _no_key(key, "private", _why(error)) from None
        except Exception as error:  # noqa: BLE001 - of several libraries
            raise _no_key(key, "private", _why(error)) from None
        with replacing(target, new=not overwrite) as draft:
            config.sign(folder, draft)
    return target


def verify(what: object, name: str, files: Mapping[str, bytes], key: Path) -> None:
    """Raise a BundleError unless the holder of a key has signed all files of a model.

    Parameters
    ----------
    what
        Path or address of the model, for messages.
    name
        Name of the model.
    files
        All its files, with the signature.
    key
        File of the public key.
    """
    verifying = _package("verifying")
    if SIGNATURE not in files:
        raise BundleError(
            f"{what} is not signed",
            expected=f"the file {SIGNATURE}, made with the key that belongs to {key.name}",
            do="ask its author for a signed model, or leave out --key to go without",
        )
    with _written(name, files) as folder, _key(key, "public") as own:
        config = verifying.Config()
        try:
            config.use_elliptic_key_verifier(public_key=own)
        except Exception as error:  # noqa: BLE001 - of several libraries
            raise _no_key(key, "public", _why(error)) from None
        signature = folder.parent / SIGNATURE
        signature.write_bytes(files[SIGNATURE])
        try:
            with redirect_stdout(io.StringIO()):  # which it warns on
                config.verify(folder, signature)
            left_out = set(files) - {SIGNATURE} - _signed_files(files[SIGNATURE])
        except Exception as error:  # noqa: BLE001 - a hostile signature may raise any
            raise _mismatch(what, key, one_line(error)) from None
    if left_out:
        raise _mismatch(what, key, f"it leaves out {', '.join(sorted(left_out))}")


def _mismatch(what: object, key: Path, why: str) -> BundleError:
    return BundleError(
        f"the signature of {what} does not hold ({why})",
        expected=f"all files as they were signed with the key that belongs to {key.name}",
        do="do not use this model; get it again, or ask its author for the right key",
    )


def _signed_files(signature: bytes) -> set[str]:
    """Return the files that a signature, which holds, is of."""
    payload = base64.b64decode(json.loads(signature)["dsseEnvelope"]["payload"])
    return {str(resource["name"]) for resource in json.loads(payload)["predicate"]["resources"]}


@contextmanager
def _written(name: str, files: Mapping[str, bytes]) -> Iterator[Path]:
    """Write the files of a model, but the signature, into a folder of its name, which goes again.

    So what is signed or verified is what was read, whatever becomes of the files meanwhile.
    """
    with tempfile.TemporaryDirectory(prefix="scbignn-") as root:
        folder = Path(root) / name
        folder.mkdir()
        for file, data in files.items():
            if file != SIGNATURE:
                (folder / file).write_bytes(data)
        yield folder


@contextmanager
def _key(path: Path, kind: str) -> Iterator[Path]:
    """Give a key file that can be read and is no other kind of file."""
    try:
        with open(path, "rb") as file:
            text = file.read(MAX_KEY_BYTES)
    except OSError as error:
        raise _no_key(path, kind, reason(error)) from None
    if f"{kind.upper()} KEY-----".encode() not in text:
        raise _no_key(path, kind, f"it holds no {kind} key")
    yield path


def _why(error: Exception) -> str:
    """Say why a key was not taken; of one of another kind the library says what it lacks inside."""
    other = isinstance(error, AttributeError)
    return "it is no key on an elliptic curve" if other else one_line(error)


def _no_key(path: Path, kind: str, why: str) -> InputError:
    return InputError(
        f"cannot use the {kind} key {path} ({why})",
        expected=f"a file in PEM form with a {kind} key of the curve P-256, P-384 or P-521",
        do="make a pair with: openssl ecparam -name prime256v1 -genkey -noout -out my.key && "
        "openssl ec -in my.key -pubout -out my.pub",
    )


def _package(part: str) -> Any:
    from importlib import import_module

    try:
        return import_module(f"model_signing.{part}")
    except ImportError:
        raise MissingExtraError("model-signing", extra="sign", purpose="a signature") from None
