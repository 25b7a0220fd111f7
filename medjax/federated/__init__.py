"""Federated training: a round is a Step whose chunk is a block of clients."""

from medjax.federated import aggregate, attacks, restart, unlearning
from medjax.federated.client import Broadcast, Client, ClientReport, local
from medjax.federated.co_teachers import Boxes, co_teachers
from medjax.federated.cohort import Cohort, CohortStream, cohorts
from medjax.federated.compress import Compressor, int8, top_k
from medjax.federated.drift import fedprox, scaffold
from medjax.federated.history import History
from medjax.federated.insiders import PrivateClients, client_plans, local_private, private_clients
from medjax.federated.membership import log_odds, membership_ratio
from medjax.federated.moving_average import averages_of, with_moving_average
from medjax.federated.one_shot import PublishedSet, published, received
from medjax.federated.partition import by_domain, by_shard, check_people, dirichlet, evenly
from medjax.federated.parts import Part
from medjax.federated.rescue import rescue_factor, rescued
from medjax.federated.rounds import federated
from medjax.federated.state import Clients, Received, Rounds, params_of
from medjax.federated.units import client_loss, client_units

__all__ = [
  "Boxes",
  "Broadcast",
  "Client",
  "ClientReport",
  "Clients",
  "Cohort",
  "CohortStream",
  "Compressor",
  "History",
  "Part",
  "PrivateClients",
  "PublishedSet",
  "Received",
  "Rounds",
  "aggregate",
  "attacks",
  "averages_of",
  "by_domain",
  "by_shard",
  "check_people",
  "client_loss",
  "client_plans",
  "client_units",
  "co_teachers",
  "cohorts",
  "dirichlet",
  "evenly",
  "federated",
  "fedprox",
  "int8",
  "local",
  "local_private",
  "log_odds",
  "membership_ratio",
  "params_of",
  "private_clients",
  "published",
  "received",
  "rescue_factor",
  "rescued",
  "restart",
  "scaffold",
  "top_k",
  "unlearning",
  "with_moving_average",
]
