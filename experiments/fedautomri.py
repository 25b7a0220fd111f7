"""FedAutoMRI: do clients that search for a small reconstruction network together find a better one?

Wu et al., "FedAutoMRI: Federated Neural Architecture Search for MR Image Reconstruction" (2023):
clients learn weights and mixtures of eight convolutions for the cells of an unrolled network, the
server averages both, the two largest operations of each edge stay, and the network that is left is
trained with a moving average at each client. Claims: better than a larger hand-made network; the
moving average adds a little.

  python -m experiments.fedautomri demo          phantoms of 4 clients, each with its own contrast
                                                 and mask, every fourth line measured, one coil, 3
                                                 seeds; about 5 minutes
  python -m experiments.fedautomri evidence      all arms, larger phantoms; about 25 minutes
  python -m experiments.fedautomri coils         the same with four simulated coils
  python -m experiments.fedautomri brain --data brain_t1_tissue
                                                 slices of real scans, an nnU-Net folder, at 4 mm,
                                                 clients by person, four simulated coils
  python -m experiments.fedautomri kspace --data cartesian_ksp.npy
                                                 trains as demo and draws real k-space of your own,
                                                 of which no full measurement is known

Times are estimates for 2 CPU cores: most of them goes into building the programs of the networks,
of which every seed has its own. Published PSNR
on fastMRI, CC359 and MoDL's brains: hand-made 37.02, 33.68, 30.14 with 260,000 parameters;
searched 39.61, 35.18, 31.07 with 16,000; with the moving average 39.68, 35.21, 31.34.

The paper's other comparators keep nothing of what was measured, so that most of their distance is
that of unrolling. Controls here: "random" has operations drawn at random, in number of parameters
the nearest of 40 draws, "hand-made" as many parameters in 3 x 3 convolutions alone,
"hand-made-large" four times as many, and "image" is the searched network without data consistency.
"searched" learns the architecture by MiLeNAS, as the paper, "search-darts" and "search-exact"
through a step of the weights (`methods.architecture_search`). Eq. 7 of the moving average diverges
as printed; `federated.with_moving_average` has both forms, and here the corrected one is used. All
clients take part in every round, so that all have the same average.

DEVIATIONS: phantoms or slices of pictures that were reconstructed by a scanner, with simulated
coils and noise, in place of raw data; 40 rounds of one update of the architecture at the rate
.03 in place of 250 epochs at .003; one cell of three edges; Adam's moments stay with the client.

results.json: the common schema of `study.results`, PSNR in dB; entropy.<method>: of the
architecture after the search by seed, from 1 (undecided, where it begins) to 0; operations and
parameters by arm, of the first seed.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments import reconstruction_sets, searched_networks
from experiments.searched_networks import Design, Task
from medjax import cli, metrics, study, train
from medjax.ops import cartesian
from medjax.train import Report
from medjax.types import Array

# --- settings


@dataclasses.dataclass(frozen=True)
class Config(searched_networks.Settings):
  """Clients that search for a network, and train it."""

  arms: tuple[str, ...] = (
    "zero-filled", "searched", "searched-average", "random", "hand-made-large", "image",
  )  # fmt: skip

  def __post_init__(self):
    super().__post_init__()
    study.chosen("arms", self.arms, ARMS)


Make = Callable[["Chooser"], Design | None]


class Chooser:
  """The designs of a seed, each searched for or drawn when it is first asked for."""

  def __init__(self, task: Task, seed: int, directory: train.RunDirectory):
    self.task, self.seed, self.directory = task, seed, directory
    self.searched = functools.cache(self._searched)

  def _searched(self, method: Any) -> Design:
    operations = self.task.searched(method, self.seed, self.directory)
    return Design(operations, self.task.config.width)

  def size(self) -> int:
    return self.task.size(self.searched("milenas"))


ARMS = study.arms(
  study.Arm("zero-filled", "no network: what was not measured is 0", lambda c: None),
  study.Arm("searched", "searched, the server's weights", lambda c: c.searched("milenas")),
  study.Arm("searched-average", "the same, moving average", lambda c: c.searched("milenas")),
  study.Arm(
    "random",
    "operations drawn at random, of equal size: a control",
    lambda c: searched_networks.of_equal_size(c.task, c.size(), c.seed),
  ),
  study.Arm(
    "hand-made",
    "3 x 3 convolutions, of equal size: a control",
    lambda c: searched_networks.hand_made(c.task, c.size()),
  ),
  study.Arm(
    "hand-made-large",
    "3 x 3 convolutions, four times the size",
    lambda c: searched_networks.hand_made(c.task, c.size(), 4.0),
  ),
  study.Arm(
    "image",
    "searched, without data consistency: a control",
    lambda c: c.searched("milenas")._replace(is_consistent=False),
  ),
  study.Arm("search-darts", "searched by DARTS's differences", lambda c: c.searched("darts")),
  study.Arm("search-exact", "searched through one exact step", lambda c: c.searched("exact")),
)

# --- questions, written down before the run

_SPREAD = (("subject", 1.0), ("seed", 0.3))


def _asked(text: str, reference: str, arm: str, expects: Any) -> study.Question:
  return study.Question(text, reference, (arm,), "psnr", "all", expects, _SPREAD)


QUESTIONS = (
  _asked("Is the searched network better than a larger hand-made one?", "hand-made-large",
         "searched", "better"),
  _asked("Than one of equal size?", "hand-made", "searched", "better"),
  _asked("Is the search better than chance?", "random", "searched", "better"),
  _asked("Does the moving average add?", "searched", "searched-average", "better"),
  _asked("Does data consistency?", "image", "searched", "better"),
  _asked("Is the network better than none?", "zero-filled", "searched", "better"),
  _asked("Do second derivatives find another network?", "searched", "search-exact", "open"),
  _asked("Are differences as good as exact ones?", "search-exact", "search-darts", "equivalent"),
)  # fmt: skip
_MANY: dict[str, Any] = {"arms": tuple(ARMS), "num_seeds": 3}
PRESETS = {
  "demo": Config(),
  "evidence": Config(size=24, **_MANY),
  "coils": Config(size=24, num_coils=4, **_MANY),
  "brain": Config(
    num_coils=4, size=48, coarser=4, num_seeds=2, num_search_rounds=30, num_rounds=90
  ),
  "kspace": Config(num_coils=4, num_seeds=1, arms=("zero-filled", "searched", "random")),
}

# --- the run and its page


def build(config: Config, options: cli.RunOptions) -> None:
  found = reconstruction_sets.load(config, options)
  real = None
  if options.preset == "kspace":
    real = reconstruction_sets.measured(options.data[0])
  tested = {"all": len(set(found.names))}
  design = study.design(config, options.seed, QUESTIONS, config.arms, found.people, tested=tested)
  with options.directory(config, found.manifest) as directory:
    if directory.finished:
      return
    design.begin(directory)
    task = Task(config, found)
    rows: list[dict[str, Any]] = []
    about: dict[str, dict[str, Any]] = {}
    drawn: dict[str, np.ndarray] = {}
    for seed in design.seeds:
      chooser = Chooser(task, seed, directory)
      for arm in config.arms:
        network = ARMS[arm].make(chooser)
        if network is None:
          images, params = zero_filled(found), None
        else:
          job = "searched" if arm == "searched-average" else arm
          params = task.train(job, network, seed, directory)[int(arm == "searched-average")]
          images = task.predictor(network)(params, found.parts["test"].image)
          size, own = task.size(network), " | ".join("+".join(e) for e in network.operations)
          about.setdefault(arm, {"parameters": size, "operations": own})
        rows += scored(images, found, {"arm": arm, "seed": seed, "role": "all"})
        if real is not None:
          drawn.setdefault(arm, reconstructed(task, network, params, real))
    result = design.results(
      rows,
      ("psnr", "ssim"),
      is_simulated=options.preset != "brain",
      entropy=task.entropies,
      networks=about,
    )
    study.finish(directory, result, page(result, task, drawn), trained=task.trained, rows=rows)


def zero_filled(found: reconstruction_sets.Acquisitions) -> np.ndarray:
  """Magnitudes of A^H k of the test pictures."""

  @jax.jit
  @jax.vmap
  def run(image: Array) -> Array:
    return jnp.abs(cartesian.adjoint(*reconstruction_sets.unpacked(image), found.sensitivities))

  return np.asarray(run(jnp.asarray(found.parts["test"].image)))


def scored(
  images: np.ndarray, found: reconstruction_sets.Acquisitions, about: dict[str, Any]
) -> list[dict[str, Any]]:
  """A row a person: means over the person's pictures."""
  rows, names = [], np.array(found.names)
  for person in sorted(set(found.names)):
    own = np.flatnonzero(names == person)
    pairs = [(images[i], found.parts["test"].label[i]) for i in own]
    figures = {
      f"{name}/all": float(np.mean([run(*pair) for pair in pairs]))
      for name, run in (("psnr", metrics.psnr), ("ssim", metrics.ssim))
    }
    rows.append({**about, "case": person, "subject": person, "domain": "", **figures})
  return rows


def reconstructed(
  task: Task, design: Design | None, params: Any, real: tuple[np.ndarray, np.ndarray, np.ndarray]
) -> np.ndarray:
  """Magnitude of a user's own k-space, zero-filled or by the network."""
  kspace, mask, coils = (jnp.asarray(x) for x in real)
  if design is None:
    return np.abs(np.fft.fftshift(np.asarray(cartesian.adjoint(kspace, mask, coils))))
  run = jax.jit(task.network(design).apply)
  return np.abs(np.fft.fftshift(np.asarray(run({"params": params}, kspace, mask, coils))))


def page(found: dict[str, Any], task: Task, drawn: dict[str, np.ndarray]) -> Report:
  """Answers, scores, networks, entropies and the course of the trainings."""
  report = study.page.start("Networks that clients search for", found)
  study.page.scores(report, found, ARMS, text="PSNR in dB; SSIM with windows of 7 pixels.")
  study.page.verdicts(report, found["questions"], not_asked=found["not_asked"])
  report.section("Networks", "Of the first seed; operations of the edges 0-1, 0-2 and 1-2.").table(
    ["arm", "parameters", "operations"],
    [[arm, own["parameters"], own["operations"]] for arm, own in found["networks"].items()],
  )
  report.table(
    ["search", "entropy of the architecture after it, by seed"],
    [[name, ", ".join(f"{e:.3f}" for e in own)] for name, own in found["entropy"].items()],
    "1 is undecided, where every search begins.",
  )
  if drawn:
    report.section(
      "Your k-space", "Nothing tells here which picture is right: no full measurement is known."
    ).images(list(drawn.values()), list(drawn), columns=3)
  study.page.trainings(report, found, task.trained, {"loss": "loss"}, xlabel="round")
  return report


if __name__ == "__main__":
  cli.run(PRESETS, build, __doc__)
