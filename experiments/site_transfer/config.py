"""Settings of the transfer study: where images come from, what is trained and what is tried."""

import dataclasses
from typing import Literal

from medjax import check, study
from medjax.nets.norms import NormKind as Norm
from medjax.train import runs

Kind = Literal["simulated", "folders", "rescanned", "cc359", "prostate", "chest"]
Optimiser = Literal["adam", "sgd"]
Arm = Literal[
  "fine-tune",
  "first-layers",
  "l2-sp",
  "spottune",
  "mmtl",
  "octl",
  "octl-first",
  "octl-second",
  "octl-none",
  "momentum",
  "equal-rate",
  "octl-rebuilt",
]
BASELINES: tuple[Arm, ...] = ("fine-tune", "first-layers", "l2-sp", "spottune")
CONTROLS: tuple[Arm, ...] = (
  "octl-first", "octl-second", "octl-none", "momentum", "equal-rate", "octl-rebuilt"
)  # fmt: skip
ARMS: tuple[Arm, ...] = (*BASELINES, "mmtl", "octl", *CONTROLS)
ADAM_ONLY: tuple[Arm, ...] = ("octl-first", "octl-second")
WITH_DRIFT: tuple[Arm, ...] = ("fine-tune", "mmtl", "octl")
_FROM_HISTORY: tuple[Arm, ...] = ("octl", "octl-first", "octl-second")


@dataclasses.dataclass(frozen=True)
class DataConfig:
  """Where images come from."""

  # "simulated": heads under the scanners of `python -m medjax.synth`, brain against the rest;
  # "folders": an nnU-Net folder a site after --data, sources first, the target last; "rescanned":
  # one such folder, as these scanners would have shown it; "cc359" and "prostate": one folder after
  # --data with these downloads; "chest": CheXpert and ChestX-ray14 after --data, in this order; see
  # medjax.data
  data_source: Kind = "simulated"
  # "SOURCE>TARGET" or "SOURCE+SOURCE>TARGET"; () is every site of CC359 onto every other, all but
  # one prostate site onto that one, all folders but the last onto the last, and each of "chexpert"
  # and "chest-xray14" onto the other
  pairs: tuple[str, ...] = ()
  num_people: int = 20  # simulated people a site
  test_fraction: float = 0.3  # share of a site's people that are tested
  max_test: int = 0  # people tested at a site; 0 tests all of the test part
  # regular expression with one group that finds the subject in a case name; "" makes every case its
  # own subject
  subject_pattern: str = ""
  # similarity from which cases of two people are taken for one scan, and refused at two sites, of
  # folders; -1 takes the measured default (.55 for volumes, .8 for pictures), 0 does not look.
  # Cases of one folder that look alike stay in one part in any case.
  near_duplicates: float = -1.0
  # pixels of the network's input, a crop or padding about the middle
  shape: tuple[int, int] = (48, 48)
  num_slices: int = 12  # slices of a simulated head
  # voxel size in mm, one an axis: of simulated heads, and what volumes are resampled to; () keeps
  # the files' own
  spacing: tuple[float, ...] = ()
  # intensities of a volume: "percentile" (the 1st and 99th go to 0 and 1) or "zscore"
  normalise: Literal["percentile", "zscore"] = "percentile"
  # of radiographs: "own", each site all of its findings under a head of its own, or "shared", the
  # findings of both under one head
  classes: Literal["own", "shared"] = "own"
  # what CheXpert's uncertain labels become: "ones", "zeros", "ignore" (not counted), or "mixed", a
  # choice for each finding (`medjax.data.sets.chest.MIXED_POLICY`)
  uncertain: Literal["mixed", "ones", "zeros", "ignore"] = "mixed"

  def __post_init__(self):
    study.check_fields(self, may_be_zero=("max_test", "tolerance_mm"))
    check.in_interval("sizes of shape", min(self.shape), 8, 4096, "pass 8 pixels or more")
    check.in_interval("test_fraction", self.test_fraction, 0.05, 0.9)
    check.require(
      all(mm > 0 for mm in self.spacing)
      and (len(self.spacing) == 3 or self.data_source != "simulated"),
      "sizes in mm, three of simulated heads, as spacing",
      f"{self.spacing}",
      "pass for example --spacing 2 2 4",
    )


@dataclasses.dataclass(frozen=True)
class Config(DataConfig):
  """Sources, targets, and what is tried between them."""

  # arms of adaptation; "octl-first" and "octl-second" carry on one moment of Adam, "octl-none" none
  # at OCTL's step sizes, "momentum" has OCTL's coefficient and nothing else of it, "equal-rate" is
  # fine-tuning at OCTL's step sizes, "octl-rebuilt" has no saved moments
  arms: tuple[Arm, ...] = ARMS
  optimisers: tuple[Optimiser, ...] = ("adam", "sgd")  # every training is done under each
  # people of the target that are trained on, below 1 that share of one's slices; of radiographs the
  # number of images
  target_sizes: tuple[float, ...] = (0.34, 1, 2, 4)
  num_seeds: int = 3  # seeds, each with its own initial weights and draws
  # "unet"; "sum_unet", the released one; "densenet" for radiographs
  network: Literal["unet", "sum_unet", "densenet"] = "unet"
  # "group", or "batch" as published, which couples the examples of a batch; "unet" has none
  norm: Norm = "group"
  # channels of the U-Net's levels; the others take the first, that of their finest level
  widths: tuple[int, ...] = (8, 16, 32)
  # layers of each block of the DenseNet; its default is DenseNet-121
  dense_layers: tuple[int, ...] = (6, 12, 24, 16)
  growth: int = 32  # channels that a layer of the DenseNet adds
  batch_size: int = 16  # slices or radiographs an update
  # epochs of an adaptation; rates drop to a tenth after three quarters of its updates
  num_epochs: int = 60
  source_epochs: int = 60  # epochs of source networks, of oracles and of rebuilding moments
  steps_per_epoch: int = 5  # updates that are called an epoch
  adam_rate: float = 1e-3  # Adam's first learning rate, at the source and at the target
  sgd_rate: float = 1e-2  # SGD's first learning rate, at the source and at the target
  # of source trainings and of fine-tuning under SGD, with Nesterov's correction
  sgd_momentum: float = 0.9
  octl_count: int = 100  # Adam's step count when OCTL starts at the target
  octl_momentum: float = 0.99  # OCTL's b1 under Adam; the released code has .9
  octl_sgd_momentum: float = 0.99  # OCTL's coefficient under SGD, without Nesterov's correction
  # slots of the target in a batch: "paper", floor(epoch / num_epochs * B), or "released", min(epoch
  # // 4 + 1, B)
  mmtl_schedule: Literal["paper", "released"] = "paper"
  l2_alpha: float = 0.1  # weight of the penalty of L2-SP
  policy_rate: float = 0.01  # learning rate of SpotTune's policy, under Adam
  tuned_weight: float = 0.005  # weight of SpotTune's mean choice in the loss
  # file with a network's weights (`train.save_weights`) that takes the place of the source
  # training; "" trains. It holds no moments: OCTL then has to rebuild them.
  source_weights: str = ""
  mode: runs.Mode = "sequential"  # how the runs of an arm are trained, see `train.fit_many`
  # Dice, or AUROC, that the source's network must lose against the oracle for a pair to count
  threshold: float = 0.02
  # tolerance of the surface Dice; below the voxel size it asks surfaces to coincide
  tolerance_mm: float = 1.0
  # "voxel" counts boundary voxels; "surfel" weighs pieces of surface by their area, as the paper's
  # tool does; volumes only
  surface: Literal["voxel", "surfel"] = "voxel"
  margin: float = 0.01  # that a difference of a score has to exceed to be called one
  log_every: int = 50  # steps between two log rows
  checkpoint_every: int = 1000  # steps between two checkpoints
  known: str = ""  # what is known of these data, a sentence shown beside the scores

  def __post_init__(self):
    super().__post_init__()
    for name in ("steps_per_epoch", "growth"):
      check.positive(name, getattr(self, name))
    for name in ("octl_count", "l2_alpha", "tuned_weight"):
      check.non_negative(name, getattr(self, name))
    for name in ("sgd_momentum", "octl_momentum", "octl_sgd_momentum"):
      check.in_interval(name, getattr(self, name), 0.0, 0.9999)
    for name in ("arms", "optimisers", "target_sizes"):
      check.require(getattr(self, name), f"{name}, one or more", "none", "see --help")
    check.require(
      (self.network == "densenet") == (self.data_source == "chest"),
      "--network densenet for --data_source chest, a U-Net for all others",
      f"--network {self.network} for {self.data_source}",
      "choose another network",
    )
    check.require(
      self.norm == "group" or self.network != "unet",
      "--norm group with --network unet",
      f"--norm {self.norm}",
      "choose --network sum_unet",
    )
    check.require(
      not (self.source_weights and self.norm == "batch"),
      "--norm group with --source_weights",
      "--norm batch, whose running statistics such a file lacks",
      "train the source, or choose --norm group",
    )
    history = [arm for arm in self.arms if arm in _FROM_HISTORY]
    check.require(
      not (self.source_weights and history),
      f"a source training with the optimiser's state for {', '.join(history)}",
      "--source_weights, weights alone",
      "choose the arm octl-rebuilt, which rebuilds the moments by a pass over source data at rate 0"
      " (medjax.methods.remembering)",
    )

  @property
  def num_steps(self) -> int:
    """Updates of an adaptation."""
    return self.num_epochs * self.steps_per_epoch

  def arms_of(self, optimiser: Optimiser) -> tuple[Arm, ...]:
    return tuple(arm for arm in self.arms if optimiser == "adam" or arm not in ADAM_ONLY)
