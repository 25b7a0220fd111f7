"""Training methods, one `Step` factory a file."""

from medjax.methods import (
  adversaries,
  condensation,
  cooperative,
  episodic,
  fusestyle,
  in_context,
  mixing,
  support,
  unit_masks,
  variational,
)
from medjax.methods.adversarial import adversarial
from medjax.methods.agem import agem
from medjax.methods.architecture import architecture_search
from medjax.methods.averaged import Averaged, averaged, flat_stretch, segment_mean
from medjax.methods.distillation import held_to_teacher, with_teacher
from medjax.methods.ewc import Anchor, ewc, fisher_anchor, merged_anchors
from medjax.methods.fine_tuning import l2sp, only, pull_to_start, with_frozen
from medjax.methods.fish import fish
from medjax.methods.fishr import fishr
from medjax.methods.groupdro import groupdro
from medjax.methods.instancewise import instancewise
from medjax.methods.irm import ib_irm, irm
from medjax.methods.learn2synth import learn2synth
from medjax.methods.lscl import lscl
from medjax.methods.multitask import domainwise, multitask
from medjax.methods.octl import continued_adam, octl, remembering
from medjax.methods.private import private
from medjax.methods.private_curriculum import private_curriculum
from medjax.methods.spottune import SpotTuned, routed, spottune
from medjax.methods.supervised import supervised
from medjax.methods.vrex import vrex
from medjax.methods.weighted import weighted

__all__ = [
  "Anchor",
  "Averaged",
  "SpotTuned",
  "adversarial",
  "adversaries",
  "agem",
  "architecture_search",
  "averaged",
  "condensation",
  "continued_adam",
  "cooperative",
  "domainwise",
  "episodic",
  "ewc",
  "fish",
  "fisher_anchor",
  "flat_stretch",
  "fishr",
  "fusestyle",
  "groupdro",
  "held_to_teacher",
  "ib_irm",
  "in_context",
  "instancewise",
  "irm",
  "l2sp",
  "learn2synth",
  "lscl",
  "merged_anchors",
  "mixing",
  "multitask",
  "octl",
  "only",
  "private",
  "private_curriculum",
  "pull_to_start",
  "remembering",
  "routed",
  "segment_mean",
  "spottune",
  "supervised",
  "support",
  "unit_masks",
  "variational",
  "vrex",
  "weighted",
  "with_frozen",
  "with_teacher",
]
