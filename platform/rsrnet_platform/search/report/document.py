"""The report of a search: what was found, in words, tables and figures; and its summary for the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Group
from rich.table import Table
from rich.text import Text

from rsrnet_platform.files import whole
from rsrnet_platform.search.report import figures
from rsrnet_platform.search.report.outcome import (
    PAPER,
    WORDS,
    Comparison,
    comparison,
    difference,
    effort,
    finished,
    length,
    measured,
    searched,
    show,
    statuses,
)
from rsrnet_platform.search.report.table import write_table
from rsrnet_platform.search.trials import Trial
from rsrnet_platform.terminal import duration

REPORT = "report.md"

CAPTIONS = {
    figures.objective_by_setting: "The objective over each searched setting",
    figures.parallel_coordinates: "The points, and how good each is",
    figures.over_time: "What ran when, and the best objective so far",
}

TOP = 10
"""Trials in the table of the report."""

LINES_OF_ERROR = 15
"""Of an error, in the report; the tables have all of it."""

ROWS = 13
"""Lines of the summary for the settings and the scores of the folds: with the others 24 at most, one screen."""

SCORES_A_LINE = 4
"""Folds side by side in the summary."""


def write(trials: Sequence[Trial], metric: str, name: str, folder: Path) -> Path:
    """Write the report of a search: `report.md`, its figures (PNG) and the tables of all trials.

    Every file appears whole or not at all; the report is written last, and links to the others.

    Args:
        trials: all of the search, in any state; the paper's own point is number 0.
        metric: what the objective is the mean of, such as `val/iou`.
        name: of the search.
        folder: where to; made if missing.

    Returns:
        The path of the report.
    """
    write_table(trials, folder)
    parts = [f"# Search {name}", _found(trials, metric), _spent(trials)]
    done = finished(trials)
    for draw, caption in CAPTIONS.items():
        if done or draw is figures.over_time:
            path = figures.save(draw(trials, metric), folder / f"{draw.__name__}.png")
            parts.append(f"![{caption}]({path.name})")
    if done:
        parts += ["## The best trials", _top(trials, metric)]
    parts.append(
        "Every trial and its MLflow run: [trials.csv](trials.csv), [trials.parquet](trials.parquet)."
    )
    parts += _failures(trials)
    text = "\n\n".join(parts) + "\n"
    return whole(folder / REPORT, lambda path: path.write_text(text, encoding="utf-8"))


def summary(trials: Sequence[Trial], metric: str) -> Group:
    """What was found, for the terminal: 24 lines of 80 columns at most.

    Args:
        trials: all of the search, in any state; the paper's own point is number 0.
        metric: what the objective is the mean of, such as `val/iou`.
    """
    found = comparison(trials)
    lines = [f"Trials: {statuses(trials)}.", f"Epochs: {effort(trials)}."]
    if found is None:
        return Group(*map(Text, ["No trial finished.", *lines]))
    title = f"{metric}, mean ± standard deviation over {len(found.best.scores)} folds"
    table = _table(found, _paper(trials), metric)
    return Group(Text(title), table, *map(Text, [*_verdict(found, trials), *lines]))


def _paper(trials: Sequence[Trial]) -> Trial | None:
    """The trial of the paper's own point, in any state."""
    return next((trial for trial in trials if trial.index == PAPER), None)


def _no_paper(trials: Sequence[Trial]) -> str:
    """Why there is nothing to compare with."""
    paper = _paper(trials)
    state = f"did not finish ({WORDS[paper.status]})" if paper else "was not tried"
    return f"The paper's own point {state}: there is nothing to compare with."


def _verdict(found: Comparison, trials: Sequence[Trial]) -> list[str]:
    if found.paper is None:
        return [_no_paper(trials)]
    if found.best is found.paper:
        return ["No finished trial is better than the paper's own point."]
    return [
        f"Difference: {measured(found.difference, found.spread, '+')} (paired by fold).",
        f"Larger than its standard deviation over the folds: {'yes' if found.decisive else 'no'}.",
    ]


def _table(found: Comparison, paper: Trial | None, metric: str) -> Table:
    best, folds = found.best, len(found.best.scores)
    columns = [best] if paper is None or paper is best else [best, paper]
    table = Table()
    table.add_column("setting", no_wrap=True, overflow="ellipsis")
    for trial in columns:
        name = "best: the paper's own" if trial is paper is best else "paper" if trial is paper else "best"
        # As wide as a line of scores: two such columns leave the names of the settings 24 of 80 characters.
        table.add_column(
            f"{name} (trial {trial.index})",
            justify="right",
            no_wrap=True,
            overflow="ellipsis",
            max_width=6 * SCORES_A_LINE - 1 if len(columns) > 1 else None,
        )
    paths = searched([best])
    room = max(1, ROWS - -(-folds // SCORES_A_LINE))
    # Where not all fit, those that tell the two apart come first.
    chosen = sorted(paths, key=lambda path: len({show(trial.point[path]) for trial in columns}) == 1)[:room]
    for path in paths:
        if path in chosen:
            table.add_row(Text(path), *(Text(show(trial.point[path])) for trial in columns))
    if len(paths) > room:
        table.add_row(f"... {len(paths) - room} more")
    table.add_row(metric, *(_objective(trial) for trial in columns))
    table.add_row("by fold", *(_scores(trial) for trial in columns))
    return table


def _objective(trial: Trial) -> str:
    if trial.status != "finished":
        return WORDS[trial.status]
    return measured(trial.objective, trial.spread)


def _scores(trial: Trial, end_of_line: str = "\n") -> str:
    scores = [f"{score:.3f}" for score in trial.scores]
    lines = [scores[start : start + SCORES_A_LINE] for start in range(0, len(scores), SCORES_A_LINE)]
    return end_of_line.join(map(" ".join, lines))


def _found(trials: Sequence[Trial], metric: str) -> str:
    """The outcome, in a paragraph."""
    found = comparison(trials)
    if found is None:
        return "No trial finished: there is no objective over all folds yet."
    best, paper, count = found.best, found.paper, len(finished(trials))
    result = f"{metric} **{measured(best.objective, best.spread)}**"
    over = f"(mean and standard deviation over {len(best.scores)} folds)"
    among = f"best of {count} finished trials" if count > 1 else "only trial that finished"
    text = f"Trial {best.index} is the {among}: {_settings(best)}; {result} {over}. "
    if paper is None:
        return text + _no_paper(trials)
    if paper is best:
        return text + "It is the paper's own point" + ("; no other is better." if count > 1 else ".")
    text += (
        f"The paper's own point, trial {paper.index} ({_settings(paper)}), has {_objective(paper)}. "
        f"On the same folds, the best is better by {measured(found.difference, found.spread)}: "
    )
    text += "more" if found.decisive else "not more"
    return (
        f"{text} than the standard deviation of that difference over the folds. "
        f"Chosen among {count} on these very folds, it owes part of the difference to chance; "
        "images that no trial was judged on tell how much."
    )


def _spent(trials: Sequence[Trial]) -> str:
    going_on = " The search is not over." if any(trial.status == "running" for trial in trials) else ""
    return (
        f"Trials: {statuses(trials)}. Epochs: {effort(trials)} that all trials in full would take. "
        f"Time: {duration(length(trials))}.{going_on}"
    )


def _top(trials: Sequence[Trial], metric: str) -> str:
    """A table of the best trials, and of the paper's own point wherever it stands."""
    ranked = list(enumerate(finished(trials), 1))
    paths = searched(trials)
    paper = next((trial for _, trial in ranked if trial.index == PAPER), None)
    against = ["difference from the paper"] if paper else []
    head = ["rank", "trial", *map(_code, paths), metric, *against, "by fold"]
    rows = [
        [
            str(rank),
            f"{trial.index} (paper)" if trial is paper else str(trial.index),
            *(_code(show(trial.point[path])) for path in paths),
            _objective(trial),
            *("" if trial is paper else measured(*difference(trial, paper), sign="+") for _ in against),
            _scores(trial, " "),
        ]
        for rank, trial in ranked
        if rank <= TOP or trial is paper
    ]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [head, ["---"] * len(head), *rows])


def _failures(trials: Sequence[Trial]) -> list[str]:
    failed = [trial for trial in trials if trial.error or trial.status in ("failed", "diverged")]
    parts = ["## Failures"] if failed else []
    for trial in failed:
        after = f"after {trial.step} of {trial.steps} epochs"
        parts.append(f"Trial {trial.index} ({_settings(trial)}): {WORDS[trial.status]} {after}.")
        if trial.error and trial.error.strip():
            # An indented block shows any text as it is.
            lines = trial.error.strip().splitlines()[-LINES_OF_ERROR:]
            parts.append("\n".join(f"    {line}" for line in lines))
    return parts


def _settings(trial: Trial) -> str:
    return ", ".join(_code(f"{path} = {show(value)}") for path, value in trial.point.items())


def _code(text: str) -> str:
    """Text as it is, also inside a table."""
    fence = "``" if "`" in text else "`"
    return f"{fence}{text}{fence}".replace("|", "\\|")
