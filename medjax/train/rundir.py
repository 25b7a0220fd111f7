"""The run directory: what ran is written before it runs, and nothing else may run there.

A private run keeps what names people (files, hashes, subjects, splits) apart from what is shared,
in the folder private/, which only its owner may read; config.json has counts and class names.
"""

import fcntl
import importlib.metadata
import os
import pathlib
import platform
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import IO, Any

import jax

from medjax import files
from medjax.check import InputError, one_of
from medjax.train import confidential, writers
from medjax.train.logging import Writer
from medjax.types import Json

CONFIG, RESULTS, TIMING = "config.json", "results.json", "timing.json"
_BEFORE = "results-before.json"  # of a run that was given more steps
_LOCK = ".lock"
_PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy", "medjax")
_COMPARED = ("experiment", "preset", "seed", "config", "private", "data")
_MAY_DIFFER = ("versions", "commit", "devices")
# Settings that say how often a training reports and saves, not what it computes.
_REPORTING = ("log_every", "eval_every", "checkpoint_every")
_LENGTHS = ("num_steps", "num_epochs")


def _tensorboard(path: pathlib.Path, config: dict[str, Json]) -> Writer:
  del config
  return writers.tensorboard(path / "tensorboard")


def _wandb(path: pathlib.Path, config: dict[str, Json]) -> Writer:
  return writers.wandb(f"medjax-{config['experiment']}", group=path.name, config=config["config"])


LOGGERS: dict[str, Callable[[pathlib.Path, dict[str, Json]], Writer]] = {
  "tensorboard": _tensorboard,
  "wandb": _wandb,
}


class RunDirectory:
  """A directory that one run owns; make it with `RunDirectory.open`, use it as a context manager.

  Attributes:
    path: the directory.
    config: what config.json holds.
    writers: to hand to `fit`; closed with the directory.
    is_longer: whether this start asks for more steps than the one before: `fit(allow_change=...)`,
      because a schedule of the learning rate knows the number of steps.
    private: folder of a private run for what must not be shared, None of other runs.
  """

  def __init__(
    self,
    path: pathlib.Path,
    config: dict[str, Json],
    lock: IO[str],
    writers: Sequence[Writer] = (),
  ):
    self.path, self.config, self._lock = path, config, lock
    self.writers = tuple(writers)
    self.is_longer = False
    self.private = path / confidential.FOLDER if config.get("private") else None

  @classmethod
  def open(
    cls,
    path: str | os.PathLike,
    *,
    experiment: str,
    preset: str,
    config: Any,
    seed: int,
    data_manifest: Mapping[str, Json] | None = None,
    log_to: Sequence[str] = (),
    private: bool = False,
    more_steps: bool = False,
  ) -> "RunDirectory":
    """Starts a run directory, or opens that of the same run again.

    Args:
      path: the directory; made if absent.
      experiment: name of the experiment module.
      preset: name of the preset.
      config: dataclass with every setting.
      seed: base seed.
      data_manifest: what the data are (files, hashes, subjects), as `Source.manifest` gives it.
      log_to: where rows go beside metrics.jsonl, names of `LOGGERS`; a run may change it.
      private: keep the manifest in private/ (mode 0700, files 0600), of which config.json and
        refusals show counts and class names only.
      more_steps: a larger `num_steps` or `num_epochs` than before goes on from what is there;
        results.json of the shorter run is kept as results-before.json.
    Returns:
      The directory, locked until `close` or the end of the process. Versions, commit or devices
      that differ from those of the first start give one warning line on stderr each.
    Raises:
      InputError: the directory is another run's (fields, seed, preset or data differ), holds other
        files and no config.json, another process is writing it, or a private run has lost its
        manifest.
    Guarantees: a refusal changes nothing in the directory. What may differ between two starts
      without a word: how often the run logs, evaluates and saves; the name of the folder with the
      data, where the digests of its files are equal.
    """
    for name in log_to:
      one_of("log_to", name, LOGGERS)
    path = pathlib.Path(path)
    manifest = files.plain(data_manifest or {})
    current = {
      "experiment": experiment,
      "preset": preset,
      "seed": seed,
      "config": files.plain(config),
      "data": confidential.counts(manifest) if private else manifest,
      **({"private": True} if private else {}),
      **_surroundings(),
    }
    _check_ours(path)
    path.mkdir(parents=True, exist_ok=True)
    lock, longer = _acquire(path), {}
    try:
      if (path / CONFIG).exists():
        saved = files.read_json(path / CONFIG)
        longer = _longer(saved, current) if more_steps else {}
        current = _check_same(path, saved, current, longer)
        if private:
          confidential.check_same(path, manifest)
        if longer:
          files.write_json(path / CONFIG, current)
          if (path / RESULTS).exists():
            (path / RESULTS).replace(path / _BEFORE)
      else:
        if private:
          confidential.keep(path, manifest)
        files.write_json(path / CONFIG, current)
      logs = [LOGGERS[name](path, current) for name in log_to]
    except BaseException:
      lock.close()
      raise
    directory = cls(path, current, lock, logs)
    directory.is_longer = bool(longer)
    return directory

  @property
  def finished(self) -> bool:
    """Whether results.json is there; a run writes it last."""
    return (self.path / RESULTS).exists()

  @property
  def results(self) -> Any:
    """What results.json holds, None before the run has finished."""
    return self._read(RESULTS)

  @property
  def timing(self) -> Any:
    """What timing.json holds, None if it was not written."""
    return self._read(TIMING if self.private is None else f"{confidential.FOLDER}/{TIMING}")

  def write_json(self, name: str, value: Any, *, names_people: bool = False) -> pathlib.Path:
    """Writes `<name>.json`: sorted keys, NaN as null, whole or not at all; returns its path.

    Args:
      name: name of the file.
      value: what `files.plain` takes.
      names_people: whether it holds subjects, cases or hashes; a private run puts it in private/,
        as it does the times of its steps, which follow the sizes of its samples.
    """
    file = f"{name.removesuffix('.json')}.json"
    if self.private is not None and (names_people or file == TIMING):
      return confidential.write(self.private / file, value)
    files.write_json(self.path / file, value)
    return self.path / file

  def close(self) -> None:
    """Lets other processes write here, and closes the writers."""
    for writer in self.writers:
      writer.close()
    self._lock.close()

  def _read(self, name: str) -> Any:
    path = self.path / name
    return files.read_json(path) if path.exists() else None

  def __enter__(self) -> "RunDirectory":
    return self

  def __exit__(self, *_: object) -> None:
    self.close()


def _check_ours(path: pathlib.Path) -> None:
  remedy = "pass a new or empty directory with --workdir"
  if path.exists() and not path.is_dir():
    raise InputError("a directory to write the run to", f"the file {path}", remedy)
  if not path.exists() or (path / CONFIG).exists():
    return
  # A process killed in its first moments leaves a lock, a temporary file or a manifest.
  left = {_LOCK} | ({confidential.FOLDER} if confidential.is_only_kept(path) else set())
  foreign = [p.name for p in sorted(path.iterdir()) if p.name not in left and p.suffix != ".tmp"]
  if foreign:
    raise InputError(
      f"a run directory with {CONFIG}, or an empty one", f"{path} with {foreign[0]!r}", remedy
    )


def _acquire(path: pathlib.Path) -> IO[str]:
  lock = open(path / _LOCK, "a+", encoding="utf-8")
  try:
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except BlockingIOError as error:
    lock.seek(0)
    owner = lock.read().strip() or "another process"
    lock.close()
    raise InputError(
      "a run directory that no other process is writing",
      f"{path}, in use by {owner}",
      "wait for it, stop it, or pass another --workdir",
    ) from error
  lock.truncate(0)
  lock.write(f"process {os.getpid()} on {socket.gethostname()}\n")
  lock.flush()
  return lock


def _longer(saved: dict, current: dict) -> dict[str, Json]:
  """The lengths of the training, by dotted name, that are larger now."""
  old, new = _flatten(saved.get("config"), "config"), _flatten(current["config"], "config")
  return {
    key: value
    for key, value in new.items()
    if key.rpartition(".")[2] in _LENGTHS
    and isinstance(value, int)
    and isinstance(old.get(key), int)
    and value > old[key]
  }


def _check_same(path: pathlib.Path, saved: dict, current: dict, longer: Mapping[str, Json]) -> dict:
  old, new = (_flatten({k: x.get(k) for k in _COMPARED}) for x in (saved, current))
  keys = [k for k in {**old, **new} if old.get(k, "nothing") != new.get(k, "nothing")]
  keys = [k for k in keys if k not in longer and not _may_differ(k, old)]
  if keys:
    keys = ["private"] if "private" in keys else keys  # the data of either side stay unsaid

    def show(side):
      return ", ".join(f"{k}={_short(side.get(k, 'nothing'))}" for k in keys[:3])

    more = f" ({len(keys)} differences in all)" if len(keys) > 3 else ""
    raise InputError(
      f"the configuration that {path} was started with, {show(old)}",
      show(new) + more,
      "go on with --continue, or pass a new directory with --workdir"
      if all(key.rpartition(".")[2] in _LENGTHS for key in keys)
      else "restore it, or pass a new directory with --workdir",
    )
  for name in _MAY_DIFFER:
    if saved.get(name) != current[name]:
      print(
        f"warning: {name} of this run were {saved.get(name)}, now {current[name]};"
        " results may differ in rounding",
        file=sys.stderr,
        flush=True,
      )
  return {**saved, "config": current["config"]} if longer else saved


def _may_differ(key: str, saved: Mapping[str, Json]) -> bool:
  """Whether a run may go on with another value here."""
  parent, _, name = key.rpartition(".")
  if key.startswith("config"):
    return name in _REPORTING
  # A folder's name says nothing where the digests of its files are compared too.
  has_digests = any(k.startswith(f"{parent}.files.") for k in saved)
  return key.startswith("data") and name == "root" and has_digests


def _flatten(value: object, prefix: str = "") -> dict[str, Json]:
  """Nested dicts as dotted names."""
  if not isinstance(value, dict) or not value:
    return {prefix: value}
  flat = {}
  for key, part in value.items():
    flat |= _flatten(part, f"{prefix}.{key}" if prefix else key)
  return flat


def _short(value: object) -> str:
  text = repr(value)
  return text if len(text) <= 60 else text[:57] + "..."


def _surroundings() -> dict[str, Json]:
  versions: dict[str, str | None] = {"python": platform.python_version()}
  for package in _PACKAGES:
    try:
      versions[package] = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
      versions[package] = None
  devices = jax.devices()
  return {
    "versions": versions,
    "commit": checkout_commit(),
    "devices": {"kind": devices[0].device_kind, "count": len(devices)},
  }


def checkout_commit() -> str | None:
  """Commit of the checkout that holds medjax, "+changes" if edited; None outside a checkout."""

  def git(*arguments: str) -> str:
    command = ["git", "-C", os.path.dirname(os.path.abspath(__file__)), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

  try:
    git("ls-files", "--error-unmatch", "__init__.py")
    changes = git("status", "--porcelain", "--untracked-files=no")
    return git("rev-parse", "HEAD") + ("+changes" if changes else "")
  except (OSError, subprocess.CalledProcessError):
    return None
