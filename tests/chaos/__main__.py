"""``bin/chaos``: a load of calls, messages and more while things break, and a report on what became of each."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import tempfile
import threading
from pathlib import Path

import click

from servicebus.errors import ServiceBusError
from tests.chaos.checker import INVARIANTS, CheckResult
from tests.chaos.kinds import KINDS
from tests.chaos.plan import Plan
from tests.chaos.plants import PLANTS
from tests.chaos.processes import RigError
from tests.chaos.report import offences, tables
from tests.chaos.run import Run
from tests.chaos.tally import Tally, load, save, tally
from tests.chaos.timeline import picture

_SYSTEMS = {"servicebus": "servicebus", "py-servicebus": "py-servicebus 2.19"}
_WAIT_LIMIT_S = 900.0
"""Beyond the minutes of the run, for start, healing, draining and the checker."""


@click.command()
@click.option("--minutes", default=2.0, show_default=True, help="How long faults are injected.")
@click.option("--seed", default=1, show_default=True, help="Repeats a schedule of faults.")
@click.option("--senders", default=4, show_default=True, help="Sender processes.")
@click.option("--agents", default=2, show_default=True, help="Agents; one more has two workers per host.")
@click.option("--calls", default=175.0, show_default=True, help="Calls per second, all senders together.")
@click.option("--messages", default=175.0, show_default=True, help="Messages per second, all senders together.")
@click.option("--events", type=float, help="Events per second, all senders together. Default: a fifth of --messages.")
@click.option(
    "--streams", type=float, help="Streams per second, all senders together. Default: a hundredth of --messages."
)
@click.option(
    "--plain", type=float, help="Messages of other programs per second, all senders together. Default: a twentieth."
)
@click.option("--brokers", default=3, show_default=True, help="Independent brokers.")
@click.option("--small-brokers", default=1, show_default=True, help="How many of them have small limits.")
@click.option("--cluster/--no-cluster", default=True, help="A cluster of three members as one more host.")
@click.option("--faults", default="all", show_default=True, help="Kinds of faults, with commas between, all or none.")
@click.option("--plant", type=click.Choice(sorted(PLANTS)), help="Run a build that is wrong in this way.")
@click.option("--poison", is_flag=True, help="Send messages that kill their worker, too.")
@click.option("--out", type=click.Path(path_type=Path), help="Keep history, logs, table and picture there.")
@click.option("--system", type=click.Choice(list(_SYSTEMS)), default="servicebus", help="Which bus.")
@click.option(
    "--beside", type=click.Path(path_type=Path), multiple=True, help="Show a tally.json of an earlier run, too."
)
@click.option("--what", "what_ids", default=0, help="Ask servicebus what for so many ids at the end, and judge it.")
@click.option("--list-faults", is_flag=True, help="Print the schedule and end.")
def main(
    minutes: float, seed: int, senders: int, agents: int, calls: float, messages: float, events: float | None,
    streams: float | None, plain: float | None, brokers: int, small_brokers: int, cluster: bool, faults: str,
    plant: str | None, poison: bool, out: Path | None, system: str, beside: tuple[Path, ...],
    what_ids: int, list_faults: bool,
) -> None:  # fmt: skip
    """Run senders and agents against failing brokers and check what became of every call and message.

    Exit status 0 if every invariant held, 1 if one was broken or never put to the test, 2 if the rig itself failed.
    """
    plan = Plan(
        minutes,
        seed,
        agents,
        senders,
        calls,
        messages,
        brokers,
        small_brokers,
        cluster,
        plant,
        poison,
        _SYSTEMS[system],
        messages / 5 if events is None else events,
        messages / 100 if streams is None else streams,
        messages / 20 if plain is None else plain,
        what_ids,
    )
    folder = (out or Path(tempfile.mkdtemp(prefix="servicebus-chaos-"))).absolute()
    if (folder / "history").exists():
        raise click.UsageError(
            f"{folder} holds the history of another run, which would be judged as well; name a new one"
        )
    run = Run(plan, _kinds(faults, plant), folder)
    if list_faults:
        for fault in run.faults:
            click.echo(f"{fault.at_s:8.2f} s  {fault.kind:20} {fault.target:22} {fault.duration_s:g} s")
        return
    _guard_against_hanging(minutes)
    try:
        result = run.go()
    except (RigError, ServiceBusError) as error:  # a broker that does not start, say
        click.echo(f"the rig failed: {error}\nsee {folder}", err=True)
        sys.exit(2)
    except KeyboardInterrupt:
        click.echo("interrupted", err=True)
        if out is None:
            shutil.rmtree(folder, ignore_errors=True)
        sys.exit(130)
    _report(run, result, folder, [load(path) for path in beside])
    if plant is not None:
        expected = PLANTS[plant].expects
        is_caught = bool(result.findings[expected].broken)
        click.echo(
            f"planted {plant}: {expected} ({INVARIANTS[expected]}) {'caught it' if is_caught else 'DID NOT SEE IT'}"
        )
    # What 2.x has no word for (an expiry, a confirm) cannot be asked of it; of ours everything must have been.
    unproved = result.unchecked if system == "servicebus" else []
    if unproved:
        click.echo(f"nothing was seen that {', '.join(unproved)} could be asked of: this run proves nothing")
    if run.plan.what:
        click.echo("\n".join([str(run.what), *run.what.wrong[:20]]))
    is_clean = result.is_clean and not run.what.wrong
    if is_clean and out is None:
        shutil.rmtree(folder, ignore_errors=True)
    sys.exit(0 if is_clean and not unproved else 1)


def _kinds(faults: str, planted: str | None) -> list[str]:
    if planted is not None and faults == "all":
        return list(PLANTS[planted].kinds)
    if faults in ("all", "none"):
        return list(KINDS) if faults == "all" else []
    chosen = faults.split(",")
    if unknown := [kind for kind in chosen if kind not in KINDS]:
        raise click.UsageError(f"no such faults: {', '.join(unknown)}; there are {', '.join(KINDS)}")
    return chosen


def _report(run: Run, result: CheckResult, folder: Path, others: list[Tally]) -> None:
    found = tally(run.plan.system, result, **run.facts)
    text = tables([found, *others])
    click.echo(text)
    if run.dead_letters:
        reasons = (f"{count} {reason}" for reason, count in run.dead_letters.most_common())
        click.echo(f"dead letters: {', '.join(reasons)}")
    if run.stranger_did:
        click.echo(f"a stranger sent: {', '.join(f'{count} {what}' for what, count in run.stranger_did.items())}")
    for missed in run.missed:
        click.echo(f"missed: {missed}")
    for member in run.started_again:
        click.echo(f"did not find back into the cluster, and was started again: {member}")
    (folder / "table.rst").write_text(text)
    (folder / "timeline.svg").write_text(picture(result.story, f"bin/chaos, seed {run.plan.seed}"))
    save(found, folder / "tally.json")
    broken = offences(result)
    if broken:
        (folder / "offences.txt").write_text(broken)
        click.echo(broken)
        click.echo(f"history, logs, table and picture: {folder}")


def _guard_against_hanging(minutes: float) -> None:
    """TERM is taken as Ctrl-C is, which a shell's background jobs would ignore.

    Whatever hangs, this process ends, and its guards end what it started.
    """

    def give_up() -> None:
        sys.stderr.write("the rig hangs; giving up\n")
        sys.stderr.flush()
        os._exit(2)

    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, signal.default_int_handler)
    timer = threading.Timer(minutes * 60 + _WAIT_LIMIT_S, give_up)
    timer.daemon = True
    timer.start()


if __name__ == "__main__":
    main()
