"""A federation over many machines, by NVFlare's Collab API; the only file that imports it.

    remote.run("my_package.my_module:plan", {"rate": 0.1}, num_clients=2, num_rounds=30,
               workdir=pathlib.Path("runs/sites"))

`plan(options) -> exchange.RoundPlan` runs in every process: the server's and each site's.
Certificates, start-up kits and the choice of machines are NVFlare's; the job that is sent there is
the same.
"""

import importlib
import json
import os
import pathlib
import shutil
import threading
import time
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from medjax import check, files
from medjax.federated.exchange import RemoteSite, RoundPlan, Server
from medjax.types import Json, TrainState

try:
  from nvflare.collab import CollabRecipe, collab  # pyrefly: ignore[missing-import]
  from nvflare.recipe import PocEnv, SimEnv  # pyrefly: ignore[missing-import]
except ImportError as error:
  raise check.InputError(
    "the library nvflare", f"none ({error})", "pip install 'medjax[nvflare]'"
  ) from None


_GRACE = 10.0  # seconds after which a site that does not even say that it is late counts as dead


class Ran(NamedTuple):
  """What a run left.

  Attributes:
    state: the server's; what clients keep lies at the sites, so `extra.clients` is as at the start.
    history: metrics of every round.
  """

  state: TrainState
  history: list[dict[str, float]]


class SiteProcess:
  """What NVFlare starts at a site; all arguments are plain, since they travel as text."""

  def __init__(self, plan: str, options: str, workdir: str):
    self.plan, self.options, self.workdir = plan, options, workdir
    self._site: RemoteSite | None = None

  @collab.publish
  def train(self, client: int, number: int, sent: list, accepted: int, timeout: float) -> list:
    """One round in at most `timeout` seconds; see `exchange.RemoteSite.train`."""
    found: list[list] = []
    errors: list[Exception] = []

    def work() -> None:
      try:
        if self._site is None:
          folder = pathlib.Path(self.workdir) / f"site-{client + 1}"
          self._site = RemoteSite(made(self.plan, self.options), client, folder)
        found.append(self._site.train(number, sent, accepted))
      except Exception as error:  # travels to the server
        errors.append(error)

    # A thread that nobody waits for, so that a site which hangs can still be ended.
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(timeout)
    if errors:
      raise errors[0]
    if not found:
      raise TimeoutError(f"no result within {timeout:g} s")
    return found[0]


class ServerProcess:
  """What NVFlare starts at the server."""

  def __init__(
    self, plan: str, options: str, workdir: str, num_rounds: int, least: int, timeout: float
  ):
    self.plan, self.options, self.workdir = plan, options, workdir
    self.num_rounds, self.least, self.timeout = num_rounds, least, timeout

  @collab.main
  def main(self) -> None:
    """All rounds that are left; says in outcome.json how it ended."""
    folder, error = pathlib.Path(self.workdir) / "server", ""
    folder.mkdir(parents=True, exist_ok=True)
    try:
      server = Server(made(self.plan, self.options), folder)
      sites = {site_id(proxy.name): proxy for proxy in collab.clients}
      while server.done < self.num_rounds and not error:
        error = self._round(server, sites)
    except Exception as caught:  # whatever it was, it must reach the person who started the run
      error = f"{type(caught).__name__}: {caught}"
    files.write_json(folder / "outcome.json", {"error": error})

  def _round(self, server: Server, sites: dict[int, Any]) -> str:
    """One round; the reason if it cannot be ended. A site that fails is not asked again."""
    number, sent, waiting, began = server.done, server.sent(), {}, time.perf_counter()
    for client, proxy in sites.items():  # all start before the first answer is waited for
      group = collab.get_clients([proxy.name])(blocking=False, timeout=self.timeout + _GRACE)
      known = int(server.accepted[client])
      waiting[client] = group.train(client, number, sent, known, self.timeout)
    replies, failures = {}, {}
    for client, answers in waiting.items():
      (*found,) = (reply for _, reply in answers)
      if found:
        replies[client] = found[0]
      else:
        failures[client] = one_line(next(iter(answers.failures.values()), "no answer"))
        del sites[client]
    told = "; ".join(f"site-{client + 1} failed: {why}" for client, why in failures.items())
    if len(replies) < self.least:
      return f"{len(replies)} of at least {self.least} sites answered in round {number}" + (
        f" ({told})" if told else ""
      )
    if told:
      print(f"round {number}: {told}; going on without", flush=True)
    server.join(replies, seconds=time.perf_counter() - began)
    return ""


def run(
  plan: str,
  options: Mapping[str, Json],
  *,
  num_clients: int,
  num_rounds: int,
  workdir: pathlib.Path,
  env: Literal["sim", "poc"] = "sim",
  least: int | None = None,
  timeout: float = 600.0,
) -> Ran:
  """Runs the rounds that are left, with a process for the server and one for each site.

  Args:
    plan: "module:function" of `function(options) -> exchange.RoundPlan`, which every process can
      import.
    options: for it; what JSON holds.
    num_clients: sites; site-1 is client 0.
    num_rounds: rounds in all.
    workdir: of this federation: the server's state after each round, and what each site keeps.
      The same call goes on where it ended.
    env: "sim": NVFlare's simulator, processes of this machine that trust each other; "poc": the
      deployment on this machine, with certificates made for it and mutual TLS.
    least: sites that must answer in every round; None: all. Those that fail are absent from then
      on, until the next start.
    timeout: seconds that a site has for a round.
  Raises:
    InputError: a site raised, hung, died or never came, and fewer than `least` were left; the
      message names it. What was done until then is kept.
  """
  for name, value in {"num_clients": num_clients, "timeout": timeout}.items():
    check.positive(name, value)
  least = num_clients if least is None else least
  check.in_interval("least", least, 1, num_clients, f"there are {num_clients} sites")
  check.one_of("env", env, ("sim", "poc"))
  workdir = workdir.absolute()
  folder, text = workdir / "server", json.dumps(dict(options), sort_keys=True)
  coded = text.encode().hex()  # NVFlare fills in what stands in braces in the texts of a job
  folder.mkdir(parents=True, exist_ok=True)
  _check_same(folder / "plan.json", {"plan": plan, "options": json.loads(text)})
  (folder / "outcome.json").unlink(missing_ok=True)
  recipe = CollabRecipe(
    job_name="federation",
    server=ServerProcess(plan, coded, str(workdir), num_rounds, least, float(timeout)),
    client=SiteProcess(plan, coded, str(workdir)),
    min_clients=least,
    sync_task_timeout=600,
  )
  error = _deployed(recipe, env, num_clients, workdir / "nvflare")
  outcome = folder / "outcome.json"
  error = files.read_json(outcome)["error"] if outcome.is_file() else error
  server = Server(made(plan, coded), folder)
  check.require(
    not error and server.done >= num_rounds,
    f"{num_rounds} rounds",
    f"{server.done}: {error or 'the job ended early'}",
    f"what was done is kept in {workdir}: mend the site and run the same command again",
  )
  return Ran(server.state, server.history)


def _deployed(recipe: Any, env: str, num_clients: int, scratch: pathlib.Path) -> str:
  """Runs the job; "" or how it ended."""
  shutil.rmtree(scratch, ignore_errors=True)  # nothing of a job is needed by the next one
  if env == "sim":
    place: Any = SimEnv(num_clients=num_clients, workspace_root=str(scratch))
  else:
    os.environ["NVFLARE_POC_WORKSPACE"] = str(scratch)
    place = PocEnv(num_clients=num_clients)
  try:
    job = recipe.execute(place)
    if env == "poc":
      job.get_result(clean_up=False)
  except (RuntimeError, ValueError, TimeoutError) as error:
    return one_line(error)
  return ""


def made(plan: str, options: str) -> RoundPlan:
  """The plan that a "module:function" makes of options, which are JSON in hexadecimal."""
  module, _, function = plan.partition(":")
  check.require(function, "a plan as 'module:function'", f"{plan!r}", "name both")
  return getattr(importlib.import_module(module), function)(json.loads(bytes.fromhex(options)))


def site_id(name: str) -> int:
  """Client of a site: site-1 is client 0."""
  number = name.rpartition("-")[2]
  check.require(number.isdigit(), "sites called site-1, site-2 ...", f"{name!r}", "rename it")
  return int(number) - 1


def one_line(error: object) -> str:
  """An error as one line: its kind where NVFlare tells it, and its message."""
  cause = getattr(error, "cause", error)
  kind, text = getattr(error, "cause_type", "") or type(cause).__name__, str(cause)
  return " ".join((text if kind == "str" or text.startswith(kind) else f"{kind}: {text}").split())


def _check_same(path: pathlib.Path, given: dict[str, Any]) -> None:
  if path.is_file():
    before = files.read_json(path)
    check.require(
      before == given, f"the federation of {path.parent}", "another one", "choose another workdir"
    )
  files.write_json(path, given)
