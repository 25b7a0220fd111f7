"""Command lines of the experiments: a preset, then flags. Owns tyro.

An experiment ends with

  def build(config: Config, options: cli.RunOptions) -> None:
    with options.directory(config, data_manifest) as run:
      if run.finished:
        return
      ...
      run.write_json("results", results)

  if __name__ == "__main__":
    cli.run(PRESETS, build, __doc__)
"""

import contextlib
import dataclasses
import errno
import os
import pathlib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

import jax

from medjax.check import InputError
from medjax.train import NonFiniteError, RunDirectory
from medjax.types import Json

if TYPE_CHECKING:
  from tyro.conf import Positional

__all__ = ["Positional", "RunOptions", "command", "run"]
_RESULTS = "results.json"


def __getattr__(name: str) -> Any:
  """`Positional` of tyro, which loads when it is used."""
  if name == "Positional":
    from tyro.conf import Positional

    return Positional
  raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


@dataclasses.dataclass(frozen=True)
class RunOptions:
  """What every experiment takes beside its own fields.

  Attributes:
    workdir: run directory.
    seed: base seed; the number of seeds is a field of the experiment.
    data: files or directories with the reader's own data; () for what the experiment ships.
    preset: name of the preset the configuration started from.
    experiment: name of the experiment.
    log_to, more_steps: see `train.RunDirectory.open`.
    given: fields of the configuration that the command line itself sets. A file of settings, such
      as nnU-Net's plans, replaces what a preset says and not what the reader asked for.
  """

  workdir: pathlib.Path
  seed: int
  data: tuple[pathlib.Path, ...]
  preset: str
  experiment: str
  log_to: tuple[str, ...] = ()
  more_steps: bool = False
  given: frozenset[str] = frozenset()

  def directory(
    self, config: Any, data_manifest: Mapping[str, Json] | None = None, *, private: bool = False
  ) -> RunDirectory:
    """The run directory of this command; arguments as for `train.RunDirectory.open`."""
    return RunDirectory.open(
      self.workdir,
      experiment=self.experiment,
      preset=self.preset,
      config=config,
      seed=self.seed,
      data_manifest=data_manifest,
      log_to=self.log_to,
      private=private,
      more_steps=self.more_steps,
    )


@dataclasses.dataclass(frozen=True)
class _Options:
  workdir: pathlib.Path | None = None
  """Run directory, runs/<experiment>-<preset>-<seed> if None; the same command resumes."""
  seed: int = 0
  """Base seed, an integer."""
  data: tuple[pathlib.Path, ...] = ()
  """Files or directories with your data; several after one flag, or the flag several times."""
  log_to: tuple[Literal["tensorboard", "wandb"], ...] = ()
  """Where rows go beside metrics.jsonl; each needs the extra of its name."""
  more_steps: bool = False
  """Go on with a larger --num_steps where a training with fewer is finished; also --continue."""


def run(
  presets: Mapping[str, Any],
  build: Callable[[Any, RunOptions], Any],
  doc: str | None,
  *,
  experiment: str | None = None,
  args: Sequence[str] | None = None,
) -> None:
  """Runs `PROGRAM PRESET [--field value ...] [--workdir DIR] [--seed N] ...`.

  PROGRAM is how Python was started: `python -m experiments.NAME`, or a script of your own.

  Args:
    presets: name -> frozen dataclass with every setting. The string under each field is its help
      text and says the unit. A tuple takes several values after one flag, or the flag repeated.
    build: `build(config, options)` does the work; it writes results.json last.
    doc: the experiment's docstring, printed by --help.
    experiment: its name; default: that of the module Python was started with.
    args: arguments; default: the command line.
  Raises:
    SystemExit: 2 for wrong arguments and InputError, 3 for NonFiniteError, 4 for a file or a disk
      that cannot be read or written, each after one line `error: ...` on stderr; 130 for Ctrl-C;
      what `build` raises as SystemExit. Other exceptions keep their traceback. A finished run says
      where its results are and returns.
  """
  _keep_compiled_programs()
  experiment = experiment or _name_of_main(build)
  words = list(sys.argv[1:] if args is None else args)
  with _one_line():
    preset, config, options = _parse(presets, doc, words, _program(experiment))
    default = pathlib.Path("runs") / f"{experiment}-{preset}-{options.seed}"
    workdir = default if options.workdir is None else options.workdir
    build(
      config,
      RunOptions(
        workdir,
        options.seed,
        options.data,
        preset,
        experiment,
        options.log_to,
        options.more_steps,
        _given(config, words),
      ),
    )
  if (workdir / _RESULTS).exists():
    print(f"finished: {workdir / _RESULTS}", flush=True)


def command(
  config: type,
  run: Callable[[Any], None],
  doc: str | None,
  *,
  args: Sequence[str] | None = None,
  prog: str | None = None,
) -> None:
  """Runs a command that is no experiment: one dataclass of flags, one function.

  Args:
    config: frozen dataclass; the string under each field is its help text. A field without default
      is required, one annotated `Positional[...]` has no flag.
    run: does the work.
    doc: printed by --help.
    args: arguments; default: the command line.
    prog: how the command is called, for --help.
  Raises:
    SystemExit: 2 for wrong arguments and InputError, 4 for a file or a disk that cannot be read or
      written, after one line `error: ...` on stderr; 130 for Ctrl-C.
  """
  import tyro

  _keep_compiled_programs()
  words = list(sys.argv[1:] if args is None else args)
  with _one_line():
    call: Any = tyro.cli(
      config, prog=prog, description=doc, args=_gather(words), use_underscores=True
    )
    run(call)


def _keep_compiled_programs() -> None:
  """JAX's compilation cache in the user's cache folder, unless they chose another place."""
  if getattr(jax.config, "jax_compilation_cache_dir", None) is None:
    home = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache")
    jax.config.update("jax_compilation_cache_dir", str(home / "medjax" / "xla"))


@contextlib.contextmanager
def _one_line() -> Iterator[None]:
  """Ends the program with one line and a status where the person, not the code, can help."""
  try:
    yield
  except KeyboardInterrupt as error:
    _say("stopped by Ctrl-C; what was finished is on the disk, the same command goes on from there")
    raise SystemExit(130) from error
  except InputError as error:
    _say(f"error: {error}")
    raise SystemExit(2) from error
  except NonFiniteError as error:
    _say(f"error: {error}")
    raise SystemExit(3) from error
  except Exception as error:
    if (text := _about_files(error)) is None:
      raise
    _say(
      f"error: expected files and folders that can be read and written, got {text};"
      " free or mend the place, then repeat the same command: what was finished is kept"
    )
    raise SystemExit(4) from error


def _about_files(error: BaseException | None) -> str | None:
  """What an error says of a file or a disk, None if nothing; libraries wrap it in their own."""
  kinds = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM)
  while error is not None:
    if isinstance(error, OSError):
      return f"{error}" or type(error).__name__
    for line in str(error).splitlines():
      if any(os.strerror(kind) in line for kind in kinds):
        return line if len(line) <= 200 else line[:197] + "..."
    error = error.__cause__ or error.__context__
  return None


def _say(text: str) -> None:
  print(" ".join(text.split()), file=sys.stderr, flush=True)


def _parse(
  presets: Mapping[str, Any], doc: str | None, args: list[str], prog: str
) -> tuple[str, Any, _Options]:
  import tyro

  annotated: Any = Annotated
  flat = tyro.conf.arg(name="")  # --num_steps, but --optimiser.learning_rate
  configs = {}
  for name, config in presets.items():
    _check_fields(config)
    fields = [
      ("config", annotated[type(config), flat]),
      ("options", annotated[_Options, flat]),
      ("preset", annotated[str, tyro.conf.Suppress]),
    ]
    call = dataclasses.make_dataclass(name, fields, frozen=True)
    configs[name] = (_difference(config), call(config, _Options(), name))
  call: Any = tyro.extras.overridable_config_cli(
    configs, prog=prog, description=doc, args=_gather(args), use_underscores=True
  )
  return call.preset, call.config, call.options


def _gather(args: list[str]) -> list[str]:
  """Joins repeated flags, `--data a --data b` into `--data a b`: tyro keeps only the last."""
  groups: dict[str, list[str]] = {}
  flag = ""
  for arg in args:
    arg = "--more_steps" if arg == "--continue" else arg
    if arg.startswith("--"):
      flag, equals, value = arg.partition("=")
      flag = "--" + flag[2:].replace("-", "_")
      groups.setdefault(flag, []).extend([value] if equals else [])
    else:
      groups.setdefault(flag, []).append(arg)
  return [word for flag, values in groups.items() for word in ([flag] if flag else []) + values]


def _given(config: Any, args: list[str]) -> frozenset[str]:
  """Fields of `config` that a flag names: --patch, --batch-size=4 or --no_mirror."""
  flags = {arg[2:].partition("=")[0].replace("-", "_") for arg in args if arg.startswith("--")}
  names = {flag.partition(".")[0] for flag in flags}
  return frozenset(f.name for f in dataclasses.fields(config) if {f.name, f"no_{f.name}"} & names)


def _difference(config: Any) -> str:
  """A preset's line in --help: where it differs from its class, else what the class is."""
  changed = [
    f"{field.name}={value!r}"
    for field in dataclasses.fields(config)
    if (value := getattr(config, field.name)) != field.default
  ]
  return ", ".join(changed) or (type(config).__doc__ or "").partition("\n")[0]


def _check_fields(config: Any) -> None:
  own = {field.name for field in dataclasses.fields(_Options)}
  if clash := own & {field.name for field in dataclasses.fields(config)}:
    raise ValueError(
      f"expected config fields beside {sorted(own)}, got {sorted(clash)} in"
      f" {type(config).__name__}; rename them, every experiment has these flags"
    )


def _name_of_main(build: Callable) -> str:
  spec = getattr(sys.modules["__main__"], "__spec__", None)
  name = build.__module__
  if name == "__main__":  # python -m package.name, or python name.py
    name = pathlib.Path(sys.argv[0]).stem if spec is None else spec.name
  return name.removesuffix(".__main__").rpartition(".")[2]


def _program(experiment: str) -> str:
  """How Python was started: with a module, with a script, or at a prompt, which has no file."""
  main = sys.modules["__main__"]
  spec = getattr(main, "__spec__", None)
  if spec is not None:
    return f"python -m {spec.name.removesuffix('.__main__')}"
  if getattr(main, "__file__", None):
    return f"python {sys.argv[0]}"
  return f"python -m experiments.{experiment}"
