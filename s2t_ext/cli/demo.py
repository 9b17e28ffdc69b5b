"""`python -m s2t_ext demo`: Select-to-Think on models that ship with the package; no network."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from s2t_ext.cli.common import notes, one_line_errors, plain_table, quiet, say
from s2t_ext.cli.options import AsJson

if TYPE_CHECKING:
    from s2t_ext.demo.compare import Outcome
    from s2t_ext.demo.models import Demo
    from s2t_ext.demo.problems import Problem


#: Candidates printed of a step.
_SHOWN = 4


def demo(
    problems: Annotated[int, typer.Option(min=1, help="Held-out problems to solve.")] = 200,
    traces: Annotated[int, typer.Option(min=0, help="Solutions to show in colour.")] = 3,
    trigger_rate: Annotated[
        float | None,
        typer.Option(help="Share of steps to select at. Default: the selector's own."),
    ] = None,
    assets: Annotated[
        Path | None, typer.Option(help="Other models, built by `python -m s2t_ext.demo.build`.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Compare greedy, majority of 8, S2T and S2T-LOCAL on miniature models, offline."""
    with one_line_errors():
        if trigger_rate is not None and not 0 < trigger_rate < 1:
            raise ValueError(f"--trigger-rate must be in (0, 1), got {trigger_rate}")
        import torch

        from s2t_ext.demo import ASSETS
        from s2t_ext.demo.compare import METHODS, held_out_problems, run_method
        from s2t_ext.demo.models import Demo

        quiet(bars=False)  # of three small models
        # Models this small gain nothing from a second thread, and where another program has the
        # core, each of their many short operations would wait for it.
        torch.set_num_threads(1)
        loaded = Demo.load(assets or ASSETS)
        if trigger_rate is not None:
            loaded.set_rate(trigger_rate)
        some = held_out_problems(problems)
        console = Console()
        if not as_json:
            _introduce(console, loaded, some)
        outcomes = []
        for method in METHODS:
            with notes.status(f"{method} ..."):
                outcomes.append(run_method(method, loaded, some))
        if as_json:
            typer.echo(json.dumps([outcome.to_dict() for outcome in outcomes], indent=2))
            return
        console.print(_table(outcomes))
        say("passes and tokens: of the student; teacher: its passes")
        by_name = {outcome.method: outcome for outcome in outcomes}
        _show_traces(console, loaded, some, by_name, traces)
        folder = assets or ASSETS
        say(
            "next, a page that shows every step of one: s2t-ext trace --html page.html "
            f"--no-use-chat-template --model {folder / 'student'} --selector {folder / 'selector'} "
            f"--prompt {shlex.quote(some[0].prompt)}"
        )


def _introduce(console: Console, demo: Demo, some: list[Problem]) -> None:
    sizes = [
        sum(p.numel() for p in model.parameters()) for model in (demo.student, demo.teacher_model)
    ]
    console.print(
        f"A student of {sizes[0]:,} weights, a teacher of {sizes[1]:,}, and {len(some)} problems "
        "neither has seen, e.g.\n",
        highlight=False,
    )
    console.print(Padding(Text(some[0].prompt, "italic"), (0, 0, 1, 2)))


def _table(outcomes: list[Outcome]) -> Table:
    table = plain_table()
    table.add_column("method", style="bold", no_wrap=True)
    for name in (
        "right",
        "95 % interval",
        "triggered",
        "changed",
        "passes",
        "teacher",
        "tokens",
        "seconds",
    ):
        table.add_column(name, justify="right", no_wrap=True)
    for o in outcomes:
        low, high = o.interval
        triggered = f"{o.triggers / o.steps:.1%}" if o.triggers else "-"
        changed = f"{o.changed / o.steps:.1%}" if o.triggers else "-"
        table.add_row(
            o.method,
            f"{o.accuracy:.1%}",
            f"{low:.0%} to {high:.0%}",
            triggered,
            changed,
            f"{o.forward_passes:,}",
            f"{o.teacher_passes:,}" if o.teacher_passes else "-",
            f"{o.tokens:,}",
            f"{o.seconds:.1f}",
        )
    return table


def _show_traces(
    console: Console,
    demo: Demo,
    some: list[Problem],
    outcomes: dict[str, Outcome],
    count: int,
) -> None:
    """Solutions of S2T-LOCAL that differ from greedy; those it got right where greedy was wrong
    and the other way round, in the order of the problems.
    """
    greedy, local = outcomes["greedy"], outcomes["s2t-local"]
    differ = [i for i in range(len(some)) if greedy.right[i] != local.right[i]]
    won = sum(local.right[i] for i in differ)
    console.print(
        f"\ns2t-local solved {won} that greedy did not, and failed {len(differ) - won} that greedy "
        "solved. Tokens: [black on yellow]chosen and kept[/], [black on green]chosen and changed"
        "[/]. Steps: candidates and their scores.\n",
        highlight=False,
    )
    for i in differ[:count]:
        verdict = ("wrong", "right")
        console.print(f"[dim]{some[i].prompt}[/dim] ({some[i].answer})", highlight=False)
        greedy_line = Text(f"greedy, {verdict[greedy.right[i]]}: {greedy.responses[i]}")
        local_line = Text(f"s2t-local, {verdict[local.right[i]]}: ")
        local_line.append_text(_coloured(demo, local, i))
        for line in (greedy_line, local_line, *_decisions(demo, local, i)):
            console.print(Padding(line, (0, 0, 0, 2)))
        console.print()


def _coloured(demo: Demo, outcome: Outcome, row: int) -> Text:
    text = Text()
    special = set(demo.tokenizer.all_special_ids)
    for event in outcome.events:
        if not bool(event.active[row]) or int(event.tokens[row]) in special:
            break
        word = _word(demo, event.tokens[row])
        style = ""
        if bool(event.triggered[row]):
            style = "black on green" if bool(event.changed[row]) else "black on yellow"
        text.append(word, style)
        text.append(" ")
    return text


def _decisions(demo: Demo, outcome: Outcome, row: int) -> Iterator[Text]:
    """What was weighed where a token was changed, best score first."""
    for event in outcome.events:
        if not bool(event.active[row]) or not bool(event.changed[row]) or event.scores is None:
            continue
        pairs = zip(event.candidates[row].tolist(), event.scores[row].tolist(), strict=True)
        ranked = sorted(pairs, key=lambda pair: -pair[1])[:_SHOWN]
        scores = ", ".join(f"{_word(demo, token)} ({score:.2f})" for token, score in ranked)
        before = _word(demo, event.ordinary[row])
        yield Text(f"step {event.step}, instead of {before}: {scores}", "dim")


def _word(demo: Demo, token: Any) -> str:
    word: str = demo.tokenizer.convert_ids_to_tokens(int(token))
    return word
