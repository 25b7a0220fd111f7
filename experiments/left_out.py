"""How a study that leaves each site out in turn runs: trainings, choice of weights, verdicts, page.

Not a study: the frame of the studies of domain generalisation. A study brings its sites, each a
Source, a `LeftOutTask`, its arms and its questions; `left_out_sites` says how weights are chosen.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments.left_out_sites import (
  LeftOutTask,
  Scorer,
  Settings,
  Watch,
  check_classes,
  chosen_sites,
)
from medjax import check, cli, data, study, train
from medjax.train import Report
from medjax.tree import entry
from medjax.types import Key, Params, PyTree, Source, Step, TrainState


class LeftOutFrame(NamedTuple):
  """What tells one study of sites left out from another.

  Attributes:
    title: of the page, before the names of the sites.
    arms: the table of arms; `make(task)` gives a Step.
    questions: of the study.
    metrics: figures of classes ("accuracy", "balanced", "auroc"), or ("dice",) of masks. The first
      one chooses weights.
    labels: metric of the log rows -> what its curve shows.
    weights: `weights(arm, state)` -> the weights that predict, such as an average.
    section: `section(report, found)` adds to the page.
    more: `more(trained)` -> further keys of results.json.
    fractions: of the people of a site that trains.
    prepare: `prepare(task, turn, directory)` -> the turn with more to train on, which only the
      people that train it may have taught, such as pictures by networks.
    updates: `updates(task, arm)` -> how many an arm makes; None: `num_steps` each.
    flops: `flops(task, arm)` -> operations of one update; None: as the compiler counts them.
    watch: `watch(arm)` -> the `Watch` that chooses weights during a training.
  """

  title: str
  arms: Mapping[str, study.Arm]
  questions: Sequence[study.Question]
  metrics: tuple[str, ...] = ("accuracy", "auroc")
  labels: Mapping[str, str] = {"loss": "loss"}
  weights: Callable[[str, TrainState], Params] = lambda arm, state: state.params
  section: Callable[[Report, dict[str, Any]], None] | None = None
  more: Callable[[dict[str, list[study.Trained]]], Mapping[str, Any]] = lambda trained: {}
  fractions: Mapping[str, float] = {"train": 0.6, "validation": 0.1, "test": 0.3}
  prepare: Callable[[Any, study.Turn, train.RunDirectory], study.Turn] | None = None
  updates: Callable[[Any, str], int] | None = None
  flops: Callable[[Any, str], float] | None = None
  watch: Callable[[str], type[Watch]] = lambda arm: Watch


# --- the run


def run(
  frame: LeftOutFrame,
  config: Settings,
  options: cli.RunOptions,
  sites: Mapping[str, Source],
  task: Callable[[Source], LeftOutTask],
  arms: Sequence[str],
  *,
  held: Callable[[Source, Sequence[int]], PyTree] = data.stack,
) -> None:
  """The whole study: plans, trains, chooses, scores, asks, and writes its page.

  Args:
    frame: the study.
    config, options: of the run.
    sites: name -> source; domains of the whole are numbered by their sorted names.
    task: `task(whole)`.
    arms: that are compared.
    held: `held(whole, positions)` -> a Batch, or arrays by name with "image", "label", "domain" and
      "index", the positions.
  """
  sites, left_out = chosen_sites(sites, config.left_out, config.train_on)
  whole = data.concat(sites)
  if frame.metrics != ("dice",):
    check_classes(whole)
  num_sources = len(sites) - max(map(len, left_out))
  check.require(
    config.batch_size >= 2 * num_sources,
    f"two pictures of each of the {num_sources} sites that train in a batch",
    f"batch_size={config.batch_size}",
    "raise batch_size: variances and batch statistics of one picture are none",
  )
  turns = study.turns_of(
    whole,
    left_out,
    functools.partial(held, whole),
    fractions=frame.fractions,
    seed=options.seed,
  )
  design = study.design(
    config,
    options.seed,
    frame.questions,
    arms,
    turns,
    tested={"unseen": sum(len(turn.people["unseen"]) for turn in turns)},
    kind="sites left out in turn",
  )
  with options.directory(config, whole.manifest()) as directory:
    if directory.finished:
      return
    design.begin(directory)
    own = task(whole)
    scorer = Scorer(whole, own, frame.metrics)
    steps: dict[str, Step] = {arm: frame.arms[arm].make(own) for arm in arms}
    trained: dict[str, list[study.Trained]] = {arm: [] for arm in arms}
    rows: list[dict[str, Any]] = []
    updates = {arm: frame.updates(own, arm) if frame.updates else config.num_steps for arm in arms}
    for turn in turns:
      turn = frame.prepare(own, turn, directory) if frame.prepare else turn
      for seed in design.seeds:
        key = jax.random.key(seed)  # one for all arms: the same first weights and batches
        stream = _stream(config, turn, key, frame.metrics)
        for arm, step in steps.items():
          weights = functools.partial(frame.weights, arm)
          name = f"{arm}-{turn.name}-{seed}"
          watch = frame.watch(arm)(scorer, turn, weights, directory.path / "evaluations" / name)
          job = study.Job(
            name,
            step,
            stream,
            own.start(arm, key, entry(turn.train, "image")[0]),
            key,
            updates[arm],
            {"validation": watch.validation, "unseen": watch.unseen},
            keep_best=f"validation/{frame.metrics[0]}" if config.choose == "best" else "",
          )
          one = study.train_job(
            job, directory, log_every=config.log_every, eval_every=config.eval_every
          )
          trained[arm].append(one)
          about = {"arm": arm, "seed": seed, "turn": turn.name}
          chosen = watch.final(one)
          score = functools.partial(_scored, scorer, chosen, turn, about)
          rows += study.kept(directory, name, chosen, score).rows
          rows += watch.oracle(one, {**about, "role": "unseen, oracle"})
    batch = _stream(config, turns[0], jax.random.key(0), frame.metrics)(0)
    flops = {
      arm: frame.flops(own, arm)
      if frame.flops
      else study.flops(step, trained[arm][0].params, batch)
      for arm, step in steps.items()
    }
    finish(frame, config, directory, turns, trained, (flops, updates), rows, design, options)


def _stream(config: Settings, turn: study.Turn, key: Key, metrics: Sequence[str]) -> Any:
  if not config.resample:
    return data.batches(turn.train, config.batch_size, key, name=turn.name)
  label = None if tuple(metrics) == ("dice",) else entry(turn.train, "label")
  return data.resampled(
    turn.train,
    config.batch_size,
    key,
    groups=entry(turn.train, "domain"),
    classes=label,
    name=turn.name,
  )


def _scored(
  scorer: Scorer, params: Params, turn: study.Turn, about: Mapping[str, Any]
) -> study.Scored:
  own = [scorer(params, cases, {**about, "role": role}) for role, cases in turn.test.items()]
  return study.Scored([row for rows in own for row in rows])


def finish(
  frame: LeftOutFrame,
  config: Settings,
  directory: train.RunDirectory,
  turns: Sequence[study.Turn],
  trained: dict[str, list[study.Trained]],
  spent: tuple[Mapping[str, float], Mapping[str, int]],
  rows: list[dict[str, Any]],
  design: study.Design,
  options: cli.RunOptions,
) -> None:
  """Verdicts, results.json and the page; `spent` are operations of an update, and updates."""
  flops, updates = spent
  found = design.results(
    rows,
    frame.metrics,
    costs={arm: flops[arm] * updates[arm] for arm in flops},
    flops=flops,
    is_simulated=not options.data,
    by_site=by_site(rows, frame.metrics[0]),
    **frame.more(trained),
  )
  report = study.page.start(f"{frame.title} on {', '.join(t.name for t in turns)}", found)
  study.page.scores(report, found, frame.arms, text=config.known)
  names = list(next(iter(found["by_site"].values())))
  report.table(
    ["arm", *(f"{name} unseen" for name in names), "mean"],
    [[arm, *own.values(), float(np.mean(list(own.values())))]
     for arm, own in found["by_site"].items()],
    f"{frame.metrics[0]} on each site that was left out; weights chosen by the sites that train"
    f" ({config.choose}). The role 'unseen, oracle' above is chosen by the unseen site itself: a"
    " bound, not a method.",
  )  # fmt: skip
  study.page.verdicts(report, found["questions"], not_asked=found["not_asked"])
  if frame.section is not None:
    frame.section(report, found)
  chosen = {f"validation/{frame.metrics[0]}": f"{frame.metrics[0]}, validation people of sources"}
  labels, caption = {**frame.labels, **chosen}, "First turn and seed."
  study.page.trainings(report, found, trained, labels, caption=caption)
  study.finish(directory, found, report, trained=trained, rows=rows)


def by_site(rows: Sequence[Mapping[str, Any]], metric: str) -> dict[str, dict[str, float]]:
  """Arm -> unseen site -> mean over its people and seeds, in the role "unseen"."""
  found: dict[str, dict[str, list[float]]] = {}
  for row in rows:
    if row["role"] == "unseen":
      own = found.setdefault(row["arm"], {}).setdefault(row["domain"], [])
      own.append(row[f"{metric}/all"])
  return {arm: {s: float(np.mean(v)) for s, v in own.items()} for arm, own in found.items()}
