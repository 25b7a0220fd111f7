"""Secrets and spent budget of one private run, in a folder that only its owner can read.

Sample and noise of step t come from HMAC-SHA256(secret, purpose and t): the same step run again,
after a crash, draws the same and releases the same. A secret serves one training only: the noise of
two would cancel in their difference. The vault therefore remembers what it was first used for and
refuses everything else.
"""

import copy
import fcntl
import hashlib
import hmac
import json
import os
import pathlib
import secrets
import stat
import weakref
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from medjax import files
from medjax.check import InputError, require
from medjax.types import Key

_SECRET, _LEDGER, _LOCK = "secret", "ledger.json", "lock"
_UNUSED = {"reserved": 0, "bound": {}}
NOT_PRIVATE = "reproducible, not private once the seed is known"


class Vault:
  """Make one with `open`, `in_memory` or `from_seed`.

  Attributes:
    identity: public digest; tells vaults apart and reveals nothing.
    note: what the statement must say of the secret, "" for a secret from the operating system.
    served: what it was bound to since it was opened.
    has_begun: whether the key of step 0 was handed out since it was opened.
  """

  def __init__(self, secret: bytes, path: pathlib.Path | None = None, *, note: str = ""):
    self._secret, self._path, self.note = secret, path, note
    self.identity = hashlib.sha256(b"medjax vault " + secret).hexdigest()[:16]
    self._ledger: dict[str, Any] = copy.deepcopy(_UNUSED)
    self.served: set[str] = set()
    self.has_begun = False
    self._unlock: Callable[[], object] = lambda: None

  @classmethod
  def open(cls, path: str | os.PathLike) -> "Vault":
    """A new vault with 256 bits of the system's entropy, or the one that lies at `path`.

    The folder has mode 0700, its files 0600. It is locked until the process ends or `close`.

    Raises:
      InputError: others may read it, its files are damaged, or another process holds it.
    """
    path = pathlib.Path(path)
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    for file in (path, path / _SECRET, path / _LEDGER):
      if file.exists():
        mode = stat.S_IMODE(file.stat().st_mode)
        require(
          not mode & 0o077, f"{file} to be its owner's alone", f"mode {mode:o}", "chmod -R go= it"
        )
    lock = _locked(path)
    try:
      if not (path / _LEDGER).exists() and not (path / _SECRET).exists():
        files.write_text(path / _LEDGER, json.dumps(_UNUSED), mode=0o600)
      ledger = _read_ledger(path / _LEDGER)
      if ledger == _UNUSED and not (path / _SECRET).exists():
        files.write_text(path / _SECRET, secrets.token_hex(32), mode=0o600)
      vault = cls(_read_secret(path / _SECRET), path)
      vault._ledger = ledger
    except BaseException:
      os.close(lock)
      raise
    vault._unlock = weakref.finalize(vault, os.close, lock)  # also when the vault is forgotten
    return vault

  @classmethod
  def in_memory(cls) -> "Vault":
    """Secrets that end with the process: a run that uses them cannot be resumed by another."""
    return cls(secrets.token_bytes(32))

  @classmethod
  def from_seed(cls, seed: int) -> "Vault":
    """The same secrets for the same seed; whoever knows the seed can remove the noise."""
    return cls(hashlib.sha256(f"medjax seed {seed}".encode()).digest(), note=NOT_PRIVATE)

  @property
  def is_secret(self) -> bool:
    """Whether the secret comes from the operating system and not from a seed."""
    return not self.note

  @property
  def reserved(self) -> int:
    """Steps whose release may have been seen, those of a killed process included."""
    return self._ledger["reserved"]

  def bind(self, **what: Any) -> None:
    """Notes what the vault serves (plan, data); later calls must bring the same.

    Raises:
      InputError: naming what differs.
    """
    bound = self._ledger["bound"]
    what = json.loads(json.dumps(what))
    for name, value in what.items():
      if name in bound and bound[name] != value:
        raise InputError(
          f"the {name} that this vault was first used with",
          _difference(bound[name], value),
          "give each private training a vault of its own: two that share their noise reveal it",
        )
    self.served |= set(what)
    if not set(what) <= set(bound):
      bound.update(what)
      self._store()

  def sampling_seed(self, step: int) -> int:
    """256 bits for the sample of a step; for numpy.random.Philox or SeedSequence."""
    return int.from_bytes(self._draw("sample", step), "big")

  def noise_key(self, step: int) -> Key:
    """Key of a step, after its release has been reserved on the disk."""
    self.reserve(step)
    self.has_begun |= step == 0
    words = np.frombuffer(self._draw("noise", step)[:8], np.uint32)
    return jax.random.wrap_key_data(jnp.asarray(words), impl="threefry2x32")

  def reserve(self, step: int) -> None:
    """Counts all releases up to that of `step` as seen, on the disk before this returns."""
    if step >= self.reserved:
      self._ledger["reserved"] = step + 1
      self._store()

  def close(self) -> None:
    """Lets another process open the folder."""
    self._unlock()

  def _draw(self, purpose: str, step: int) -> bytes:
    return hmac.new(self._secret, f"{purpose} {step}".encode(), "sha256").digest()

  def _store(self) -> None:
    if self._path is not None:
      text = json.dumps(self._ledger, indent=1)
      files.write_text(self._path / _LEDGER, text, mode=0o600)


def _locked(path: pathlib.Path) -> int:
  file = os.open(path / _LOCK, os.O_RDWR | os.O_CREAT, 0o600)
  try:
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except BlockingIOError as error:
    os.close(file)
    raise InputError(
      f"the vault {path} for this process alone", "another that holds it", "wait for that run"
    ) from error
  return file


def _read_secret(path: pathlib.Path) -> bytes:
  try:
    secret = bytes.fromhex(path.read_text())
  except (OSError, ValueError):
    secret = b""
  require(
    len(secret) == 32, f"64 hexadecimal digits in {path}", "something else", "start a new run"
  )
  return secret


def _read_ledger(path: pathlib.Path) -> dict[str, Any]:
  try:
    ledger = json.loads(path.read_text())
    assert ledger["reserved"] >= 0 and isinstance(ledger["bound"], Mapping)
  except (OSError, ValueError, KeyError, TypeError, AssertionError) as error:
    raise InputError(
      f"a ledger in {path}",
      f"a file that was edited or removed ({error!r})",
      "count its run as spent and start a new one in another folder",
    ) from error
  return ledger


def _difference(old: Any, new: Any) -> str:
  if isinstance(old, Mapping) and isinstance(new, Mapping):
    names = sorted(k for k in {**old, **new} if old.get(k) != new.get(k))
    return ", ".join(f"{k} {new.get(k)!r} (was {old.get(k)!r})" for k in names)
  return "another one"
