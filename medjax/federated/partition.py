"""Who holds what: cases over clients, so that all cases of a person lie at one client."""

from collections.abc import Callable, Sequence

import numpy as np

from medjax import check
from medjax.data.seeds import generator


def evenly(subjects: np.ndarray, num_clients: int, seed: int) -> list[np.ndarray]:
  """Rows of each client: people in random order, in groups that differ by one person at most.

  >>> import numpy as np
  >>> [part.tolist() for part in evenly(np.array([0, 0, 1, 2]), 3, seed=1)]
  [[2], [3], [0, 1]]
  """
  people, of_case = _people(subjects)
  order = generator(seed, "evenly").permutation(len(people))
  return _parts(np.array_split(order, num_clients), of_case, num_clients)


def dirichlet(
  labels: np.ndarray,
  num_clients: int,
  alpha: float | int,
  seed: int,
  *,
  subjects: np.ndarray | None = None,
  least: int = 1,
) -> list[np.ndarray]:
  """Rows of each client; every class is spread by shares drawn from Dirichlet(alpha, ..., alpha).

  (Hsu et al., "Measuring the effects of non-identical data distribution", 2019.)

  Args:
    labels: [cases] int, the class of each case; a person has the commonest of their cases.
    num_clients: how many clients.
    alpha: above 0; 100 is nearly even, 0.1 leaves most clients with few classes.
    seed: of the draw.
    subjects: [cases] code of the person; None: every case is another person.
    least: people that every client must get; the shares are drawn anew until it holds.
  Raises:
    InputError: after 100 draws some client still holds fewer.
  """
  check.positive("alpha", alpha)
  people, of_case, classes = _labelled_people(labels, subjects)
  for attempt in range(100):
    random = generator(seed, "dirichlet", attempt)
    groups: list[list[int]] = [[] for _ in range(num_clients)]
    for k in np.unique(classes):
      own = random.permutation(np.flatnonzero(classes == k))
      ends = np.cumsum(random.dirichlet([alpha] * num_clients))[:-1] * len(own)
      for group, more in zip(groups, np.split(own, ends.round().astype(int)), strict=True):
        group += more.tolist()
    if min(map(len, groups)) >= least:
      return _parts([np.array(group) for group in groups], of_case, num_clients)
  raise check.InputError(
    f"{least} people at each of {num_clients} clients",
    f"fewer in 100 draws with alpha={alpha:g} over {len(people)} people",
    "raise alpha, or ask for fewer clients",
  )


def by_shard(
  labels: np.ndarray,
  num_clients: int,
  seed: int,
  *,
  shards: int = 2,
  subjects: np.ndarray | None = None,
) -> list[np.ndarray]:
  """Rows of each client: people sorted by class, cut into shards, so many a client at random.

  (McMahan et al. 2017; with 2 shards most clients see two classes.)

  Args:
    labels: [cases] int, the class of each case; a person has the commonest of their cases.
    num_clients: how many clients.
    seed: of the draw.
    shards: shards a client.
    subjects: [cases] code of the person; None: every case is another person.
  """
  check.positive("shards", shards)
  people, of_case, classes = _labelled_people(labels, subjects)
  random = generator(seed, "shards")
  shuffled = random.permutation(len(people))
  ordered = shuffled[np.argsort(classes[shuffled], kind="stable")]
  pieces = np.array_split(ordered, num_clients * shards)
  deal = random.permutation(num_clients * shards).reshape(num_clients, shards)
  groups = [np.concatenate([pieces[i] for i in own]) for own in deal]
  return _parts(groups, of_case, num_clients)


def by_domain(domains: Sequence[str] | np.ndarray) -> list[np.ndarray]:
  """Rows of each client: one client a site or scanner, in sorted order of their names or codes."""
  values = np.asarray(domains)
  return [np.flatnonzero(values == site) for site in np.unique(values)]


def check_people(parts: Sequence[np.ndarray], subjects: np.ndarray) -> None:
  """Raises InputError if a case, or two cases of one person, lie at two clients."""
  owner: dict[int, int] = {}
  for client, part in enumerate(parts):
    for person in np.unique(subjects[part]).tolist():
      other = owner.setdefault(person, client)
      check.require(
        other == client,
        "each person at one client",
        f"person {person} at clients {other} and {client}",
        "partition over subjects, or give equal people one code",
      )


def _people(subjects: np.ndarray) -> tuple[np.ndarray, Callable[[np.ndarray], np.ndarray]]:
  """Sorted people, and the rows of the cases of some of them."""
  people, code = np.unique(np.asarray(subjects), return_inverse=True)
  return people, lambda chosen: np.flatnonzero(np.isin(code, chosen))


def _labelled_people(
  labels: np.ndarray, subjects: np.ndarray | None
) -> tuple[np.ndarray, Callable[[np.ndarray], np.ndarray], np.ndarray]:
  """People, their cases, and the commonest class of each (of equally common ones the least)."""
  labels = np.asarray(labels)
  check.require(labels.ndim == 1, "labels [cases]", f"shape {labels.shape}", "one class a case")
  subjects = np.arange(len(labels)) if subjects is None else np.asarray(subjects)
  check.same_shape("labels", labels.shape, "subjects", subjects.shape)
  people, of_case = _people(subjects)
  values, classes = np.unique(labels, return_inverse=True)
  _, code = np.unique(subjects, return_inverse=True)
  counts = np.zeros((len(people), len(values)), np.int64)
  np.add.at(counts, (code, classes), 1)
  return people, of_case, values[counts.argmax(1)]


def _parts(
  groups: Sequence[np.ndarray], of_case: Callable[[np.ndarray], np.ndarray], num_clients: int
) -> list[np.ndarray]:
  parts = [of_case(group) for group in groups]
  check.require(
    len(parts) == num_clients and all(map(len, parts)),
    f"cases for each of {num_clients} clients",
    f"{sum(map(bool, map(len, parts)))} clients with cases",
    "ask for fewer clients",
  )
  return parts
