"""Settings of the replay study, and the seeds and orders of centres that follow from them."""

import dataclasses
from collections.abc import Sequence
from typing import Literal

from medjax import check, study, train
from medjax.data.seeds import generator

Arm = Literal[
  "fine-tuning",
  "replay",
  "replay-weighted",
  "replay-redrawn",
  "replay-reservoir",
  "replay-herding",
  "replay-diverse",
  "replay-synthetic",
  "replay-private",
  "ewc",
  "lwf",
  "a-gem",
  "der++",
]


@dataclasses.dataclass(frozen=True)
class Config(study.Settings):
  """Hospitals one after the other."""

  # simulated centres, or folders given by --data in the order of training
  source: Literal["simulated", "folders"] = "simulated"
  # people to train on at each simulated centre
  num_train: tuple[int, ...] = (16, 10, 9, 10, 6, 3, 2, 2)
  num_test: int = 10  # people of each simulated centre to test on
  # voxels an axis of simulated volumes (two or three axes), and of what folders are cropped and
  # padded to; () pads folders to their largest
  shape: tuple[int, ...] = (40, 40, 40)
  # voxel size in mm that folders are resampled to; () keeps their own, which must then be one
  spacing: tuple[float, ...] = ()
  # regular expression with one group that finds the person in a case's name, of nnU-Net folders
  subject_pattern: str | None = None
  test_fraction: float = 0.2  # of a folder's people, rounded down, at least one
  # similarity from which two people's scans in the folders are taken for one, with six people or
  # more; -1 takes the measured default (.55 for volumes, .8 for pictures), 0 does not look
  near_duplicates: float = -1.0
  equalise: bool = False  # histogram equalisation before the normalisation of each volume
  # normalise training patches anew, as the released code does
  standardise_patches: bool = False
  # channels of the residual U-Net, one more than the paper's "layers"
  widths: tuple[int, ...] = (8, 16, 32, 64)
  dropout: float = 0.0  # share of channels dropped in the encoder
  # activation and Dice over the whole batch, as published; one patient's output then depends on the
  # others'
  couple_batch: bool = False
  patch: tuple[int, ...] = (32, 32, 32)  # voxels an axis of a training patch
  batch_size: int = 4  # volumes a step
  patches_per_volume: int = 1  # patches of each volume in a step
  foreground_fraction: float = 0.5  # share of patches with a lesion voxel in the middle
  window: tuple[int, ...] = ()  # voxels an axis of inference windows; () is the whole volume
  overlap: float = 0.5  # fraction of a window that its neighbour covers too
  # arms, each trained through all centres
  arms: tuple[Arm, ...] = ("fine-tuning", "replay", "replay-weighted")
  num_seeds: int = 1  # seeds, each with its own split, first weights and draws
  num_orders: int = 1  # orders of the centres; the first is that of the data, others are shuffled
  # train every order with every seed; else all seeds in the first order, all orders with the first
  # seed
  crossed: bool = False
  num_steps: int = 60  # steps a centre; multi-domain training has as many as all centres together
  num_epochs: float = (
    0.0  # in place of num_steps (0): passes over the volumes at hand, as published
  )
  learning_rate: float = 3e-3  # of AdamW; it is halved after each third of a centre's steps
  weight_decay: float = 1e-5  # of AdamW
  # what the next centre starts from: the whole network, or the encoder with a new decoder, as
  # published
  transfer: Literal["whole", "encoder"] = "whole"
  # the last weights, or those of the best validation loss, as published; tests are always of the
  # last
  carry: Literal["last", "best"] = "last"
  # volumes of the pool at hand set aside to choose the best, memory included
  num_validation: int = 0
  memory: int = 4  # cases kept of a centre; a reservoir has room for all of them from the start
  ewc_strength: float = 10.0  # lambda of EWC
  lwf_strength: float = 1.0  # lambda of LwF
  # of DER++: weight of the outputs that were stored of remembered examples. They are those of whole
  # volumes, cut and mirrored like them: outputs of a patch differ a little
  der_alpha: float = 0.1
  der_beta: float = 1.0  # of DER++: weight of the labels of remembered examples
  # keys of private sampling and noise: "os" from the operating system; "seed" from the seed, which
  # repeats a run and is not private once the seed is known
  secrets: Literal["os", "seed"] = "os"
  # epsilon of the private training at one centre; who is remembered pays again at later ones
  private_epsilon: float = 8.0
  private_delta: float = 1e-3  # delta of the private training at one centre
  private_norm: float = 1.0  # clipping norm of private training
  margin: float = 0.01  # that a difference of Dice has to exceed to be called one
  equivalence: float = 0.02  # half width of the interval that calls a backward transfer zero
  min_test: int = 5  # test people below which a centre is shown and left out of claims
  divide_by: Literal["k-1", "k"] = "k-1"  # what sums of transfers are divided by, K centres
  mode: train.runs.Mode = "sequential"  # see `train.fit_many`; runs are seeds and orders
  on_device: bool = True  # keep the volumes on the device; else batches are copied
  log_every: int = 20  # steps between two log rows

  def __post_init__(self):
    study.check_fields(self, may_be_zero=("num_steps", "num_epochs", "num_validation"))
    check.require(
      min(self.num_train, default=0) > 0,
      "people to train on at every simulated centre",
      f"{self.num_train}",
      "give numbers above 0",
    )
    for name in ("patches_per_volume", "memory", "private_epsilon", "equivalence"):
      check.positive(name, getattr(self, name))
    check.require(
      (self.num_steps > 0) != (self.num_epochs > 0),
      "one of num_steps and num_epochs above 0",
      f"{self.num_steps} and {self.num_epochs}",
      "set the other to 0",
    )
    for name in ("ewc_strength", "lwf_strength", "der_alpha", "der_beta"):
      check.non_negative(name, getattr(self, name))
    halved = sorted({"replay-weighted", "replay-synthetic", "der++"} & set(self.arms))
    check.require(
      self.batch_size > 1 or not halved,
      f"batch_size > 1 for {', '.join(halved)}",
      "1",
      "half of a batch is of the memory",
    )
    check.in_interval("private_delta", self.private_delta, 0, 1)
    check.require(
      self.carry == "last" or self.num_validation > 0,
      "num_validation > 0 for carry='best'",
      "0",
      "the paper's code takes 5",
    )
    alone = sorted({"ewc", "replay-diverse", "replay-private"} & set(self.arms))
    check.require(
      not self.couple_batch or not alone,
      "arms without per-example gradients for couple_batch",
      ", ".join(alone),
      "with batch coupling no example has a gradient of its own",
    )
    check.require(
      "replay-private" not in self.arms or self.carry == "last" and self.mode == "sequential",
      "carry='last' and mode='sequential' for replay-private",
      f"{self.carry!r} and {self.mode!r}",
      "a choice by validation people would be no private one",
    )


def check_space(config: Config, space: Sequence[int]) -> None:
  """Raises InputError where patches or windows do not fit volumes of these voxels an axis."""
  check.require(
    len(config.patch) == len(space)
    and all(p <= n for p, n in zip(config.patch, space, strict=True)),
    f"a patch that fits into volumes of {tuple(space)} voxels",
    f"{config.patch}",
    "pass a smaller --patch, or pad the volumes with --shape",
  )
  check.require(
    len(config.window) in (0, len(space)),
    f"windows of {len(space)} axes",
    f"{config.window}",
    "pass one size an axis with --window",
  )


def orders_of(config: Config, num_centres: int, seed: int) -> list[tuple[int, ...]]:
  """The data's own order, then shuffled ones, all different where there are enough."""
  orders = [tuple(range(num_centres))]
  attempt = 0
  while len(orders) < config.num_orders and attempt < 1000:
    order = tuple(
      int(i) for i in generator(seed, "order of centres", attempt).permutation(num_centres)
    )
    attempt += 1
    if order not in orders:
      orders.append(order)
  check.require(
    len(orders) == config.num_orders,
    f"at most {len(orders)} orders of {num_centres} centres",
    f"{config.num_orders}",
    "ask for fewer",
  )
  return orders


def runs_of(config: Config) -> list[tuple[int, int]]:
  """(seed, order) pairs, counted from 0, that every arm is trained with."""
  pairs = [(s, 0) for s in range(config.num_seeds)] + [(0, o) for o in range(1, config.num_orders)]
  if config.crossed:
    pairs = [(s, o) for s in range(config.num_seeds) for o in range(config.num_orders)]
  return pairs
