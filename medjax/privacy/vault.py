"""Secrets and spent budget of private trainings, in a folder that only its owner can read.

Sample and noise of step t of training i come from HMAC-SHA256(secret, purpose, t, i): the same step
of the same training run again, after a crash, draws the same and releases the same. Another
training has another number and so other samples and other noise: two releases that shared their
noise would give away the difference of what they were made of. The ledger says what each training
was and how many steps of it may have been seen; `privacy.trainings` decides which one a run is.
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
from medjax.privacy.trainings import Training
from medjax.types import Key

_SECRET, _LEDGER, _LOCK = "secret", "ledger.json", "lock"
_UNUSED = {"bound": {}, "trainings": []}
NOT_PRIVATE = "reproducible, not private once the seed is known"


class Vault:
  """Make one with `open`, `in_memory` or `from_seed`.

  Attributes:
    identity: public digest; tells vaults apart and reveals nothing.
    note: what the statement must say of the secret, "" for a secret from the operating system.
    current: number of the training that is under way, None before one has begun since the vault
      was opened.
  """

  def __init__(self, secret: bytes, path: pathlib.Path | None = None, *, note: str = ""):
    self._secret, self._path, self.note = secret, path, note
    self.identity = hashlib.sha256(b"medjax vault " + secret).hexdigest()[:16]
    self._ledger: dict[str, Any] = copy.deepcopy(_UNUSED)
    self.current: int | None = None
    self._is_closed = False
    self._unlock: Callable[[], object] = lambda: None

  @classmethod
  def open(cls, path: str | os.PathLike) -> "Vault":
    """A new vault with 256 bits of the system's entropy, or the one that lies at `path`.

    The folder has mode 0700, as have folders above it that this makes; its files have 0600. It is
    locked until the process ends or `close`.

    Raises:
      InputError: others may read it, or put another in its place; its files are damaged; another
        process holds it.
    """
    path = pathlib.Path(path)
    for folder in (*reversed([p for p in path.parents if not p.exists()]), path):
      folder.mkdir(mode=0o700, exist_ok=True)
    mode = path.absolute().parent.stat().st_mode
    require(
      not mode & stat.S_IWOTH or mode & stat.S_ISVTX,
      f"{path.absolute().parent}, where the vault lies, to be writable by its owner alone",
      f"mode {stat.S_IMODE(mode):o}",
      "chmod o-w it: others could put a vault of their own in its place",
    )
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
  def trainings(self) -> tuple[Training, ...]:
    """All trainings that were begun, in order."""
    return tuple(Training(**fields) for fields in self._ledger["trainings"])

  @property
  def reserved(self) -> int:
    """Steps of the latest training that may have been seen, those of a killed process included."""
    return self.trainings[-1].reserved if self.trainings else 0

  def bind(self, **what: Any) -> None:
    """Notes what the vault serves (the data); later calls must bring the same.

    Raises:
      InputError: naming what differs.
    """
    bound = self._ledger["bound"]
    what = json.loads(json.dumps(what))
    for name, value in what.items():
      if name in bound and bound[name] != value:
        raise InputError(
          f"the {name} that this vault was first used with",
          "another one",
          "give trainings on other data a vault of their own",
        )
    if not set(what) <= set(bound):
      bound.update(what)
      self._store()

  def begin(self, training: Training, number: int | None = None) -> int:
    """Makes a training the one under way: a new one, or number `number` with these fields."""
    fields = json.loads(json.dumps(training._asdict()))
    if number is None:
      self._ledger["trainings"].append(fields)
      number = len(self._ledger["trainings"]) - 1
    else:
      self._ledger["trainings"][number] = fields
    self.current = number
    self._store()
    return number

  def sampling_seed(self, step: int) -> int:
    """256 bits for the sample of a step; for numpy.random.Philox or SeedSequence."""
    return int.from_bytes(self._draw("sample", step), "big")

  def parts_seed(self) -> int:
    """256 bits that put the units of a training into the parts of cyclic sampling."""
    return int.from_bytes(self._draw("parts", 0), "big")

  def noise_key(self, step: int, window: int | None = None) -> Key:
    """Key of a step, after its release has been reserved on the disk.

    With `window` the keys [window] of this step and of those before it, the latest first, back to
    the last multiple of `window`; from there on the first one is repeated.
    """
    self.reserve(step)
    steps = [step]
    if window is not None:
      steps = [step - k if k <= step % window else step for k in range(window)]
    words = [np.frombuffer(self._draw("noise", s)[:8], np.uint32) for s in steps]
    data = words[0] if window is None else np.stack(words)
    return jax.random.wrap_key_data(jnp.asarray(data), impl="threefry2x32")

  def seal(self, step: int, rows: bytes) -> str:
    """What only this vault can say of the rows that were drawn for a step of this training."""
    return self._draw(f"seal {hashlib.sha256(rows).hexdigest()}", step).hex()

  def reserve(self, step: int) -> None:
    """Counts all releases up to that of `step` as seen, on the disk before this returns."""
    if self.current is None:
      self.begin(self.trainings[-1] if self.trainings else Training(), self._latest())
    assert self.current is not None
    training = self.trainings[self.current]
    first, reserved = min(training.first, step), max(training.reserved, step + 1)
    if (first, reserved) != (training.first, training.reserved):
      self.begin(training._replace(first=first, reserved=reserved), self.current)

  def close(self) -> None:
    """Lets another process open the folder; from then on this one releases nothing."""
    self._is_closed = self._path is not None
    self._unlock()

  def _latest(self) -> int | None:
    return len(self._ledger["trainings"]) - 1 if self._ledger["trainings"] else None

  def _draw(self, purpose: str, step: int) -> bytes:
    number = self._latest() if self.current is None else self.current
    # The first training's text has no number.
    text = f"{purpose} {step}" + (f" of training {number}" if number else "")
    return hmac.new(self._secret, text.encode(), "sha256").digest()

  def __deepcopy__(self, memo: Any) -> "Vault":
    raise InputError("one vault a secret", "a copy", "two would draw the same noise; open it once")

  def __copy__(self) -> "Vault":
    return self.__deepcopy__(None)

  def __reduce__(self) -> Any:
    return self.__deepcopy__(None)

  def _store(self) -> None:
    require(
      not self._is_closed, "an open vault", "one that was closed", "open it again: Vault.open(path)"
    )
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
    assert isinstance(ledger["bound"], Mapping)
    for fields in ledger["trainings"]:
      training = Training(**fields)
      assert 0 <= training.first <= max(training.first, training.reserved)
  except (OSError, ValueError, KeyError, TypeError, AssertionError) as error:
    raise InputError(
      f"a ledger in {path}",
      f"a file that was edited or removed ({error!r})",
      "count its run as spent and start a new one in another folder",
    ) from error
  return ledger
