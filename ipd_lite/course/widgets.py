"""Thin sliders over plots. A callback only moves what is drawn; the race alone runs again.

A strip of a few telling settings is shown first, as an ordinary image output, and a control then
replaces that very output by the picture of its value. Without a front end (a headless run, a page
on paper or on the web) the strip therefore stays. Every picture carries a text that says what it
shows, with the controls' values.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import ipywidgets
import matplotlib.pyplot as plt
import numpy as np
import torch
from IPython.display import display
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy.stats import expectile, norm
from tqdm import tqdm

from ipd_lite import plots
from ipd_lite.course.race import race, starts_around, steps_to_goal, titled
from ipd_lite.paper.acting import Actor
from ipd_lite.paper.uncertainty import dual_divergence, primal_divergence
from ipd_lite.tasks.mazes import geometry

Array = NDArray[np.float64]


Key = TypeVar("Key")


def picture(figure: Figure) -> bytes:
    """The figure as PNG bytes; after the first time its layout stays as it is (and is fast)."""
    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_png(buffer)
    figure.set_layout_engine("none")
    return buffer.getvalue()


def show(
    render: Callable[..., bytes],
    alt: str,
    stills: Sequence[dict[str, Any]],
    still: Callable[..., bytes] | None = None,
    **controls: ipywidgets.Widget,
) -> None:
    """Show a few settings below one another, and a picture of its own whenever a control moves.

    Args:
        render: the controls' values by name -> PNG bytes.
        alt: what the picture shows, for readers who cannot see it; the values are added.
        stills: the settings of the strip; a control that one leaves out has its first value.
        still: draws them; None = `render`.
    """
    first = {name: control.value for name, control in controls.items()}

    def named(values: Mapping[str, Any]) -> str:
        return ", ".join(f"{c.description} = {values[name]}" for name, c in controls.items())

    for control in controls.values():
        control.style = {"description_width": "initial"}
        control.layout = ipywidgets.Layout(width="420px")
    drawn = {named(first | s): (still or render)(**first | s) for s in stills}
    display(ipywidgets.VBox(list(controls.values())))
    opening = plots.Picture(plots.strip(drawn), f"{alt} Settings: {'; '.join(drawn)}.")
    handle = display(opening, display_id=True)

    def moved(change: Any) -> None:
        values = {name: control.value for name, control in controls.items()}
        if handle is not None:
            handle.update(plots.Picture(render(**values), f"{alt} Now: {named(values)}."))

    for control in controls.values():
        control.observe(moved, names="value")


def some(options: Sequence[Key]) -> list[Key]:
    """The first of them, the middle one and the last."""
    return list(dict.fromkeys(options[i] for i in (0, len(options) // 2, -1)))


def drawn_beforehand(pictures: Mapping[Key, Callable[[], Figure]]) -> dict[Key, bytes]:
    """Every figure drawn once, as PNG bytes, and closed."""
    drawn = {}
    for key, draw in tqdm(pictures.items(), desc="figures", unit="figure", delay=2):
        figure = draw()
        drawn[key] = picture(figure)
        plt.close(figure)
    return drawn


def choose(pictures: Mapping[str, Callable[[], Figure]], description: str, alt: str) -> None:
    """A menu of figures, all drawn beforehand."""
    drawn = drawn_beforehand(pictures)
    menu = ipywidgets.Dropdown(options=list(drawn), description=description)
    show(lambda choice: drawn[choice], alt, [{"choice": c} for c in list(drawn)[:3]], choice=menu)


def browse_episodes(
    walls: NDArray[np.bool_],
    goal: Array,
    paths: Sequence[Array],
    returns: Array,
    terminated: NDArray[np.bool_],
) -> None:
    """One slider over the episodes: the path in the maze and its distance to the goal."""
    figure, (left, right) = plots.episode_panels(walls, goal, paths)
    (path_line,) = left.plot([], [], "-", color=plots.BLUE, lw=2, zorder=4)
    (start,) = left.plot([], [], "o", color=plots.ORANGE, ms=6, zorder=5)
    (distance,) = right.plot([], [], ".-", color=plots.BLUE)
    plt.close(figure)

    def render(episode: int) -> bytes:
        path = paths[episode]
        path_line.set_data(*path.T)
        start.set_data(path[:1, 0], path[:1, 1])
        distance.set_data(np.arange(len(path)), np.linalg.norm(path - goal, axis=1))
        end = "terminated at the goal" if terminated[episode] else "truncated"
        left.set_title(f"episode {episode}: return {returns[episode]:.0f}, {end}")
        return picture(figure)

    show(
        render,
        "Left, the path of one episode in the maze, over all others in grey; right, its distance "
        "to the goal after each decision, with the goal's radius shaded.",
        [{"episode": 0}, {"episode": int(np.argmax(terminated != terminated[0]))}],
        episode=ipywidgets.IntSlider(min=0, max=len(paths) - 1, value=0, description="episode"),
    )


def race_from(actors: Mapping[str, Actor], starts: Array) -> None:
    """A menu of places: the eight balls start there and every policy races again, live.

    Args:
        starts: (B, 2), the first entry of the menu.
    """
    maze = geometry("medium")
    steps = steps_to_goal(maze)
    menu = {"the first starts of every evaluation": starts}
    for cell in np.argsort(-steps, kind="stable")[:-1].tolist():  # all but the goal's own
        x, y = maze.centres[cell]
        cells = "1 cell" if steps[cell] == 1 else f"{steps[cell]} cells"
        name = f"around ({x:g}, {y:g}) m, {cells} from the goal"
        menu[name] = starts_around(cell, maze, len(starts))

    def lanes(start: str) -> Mapping[str, plots.Lane]:
        return titled(race(actors, menu[start]))

    def render(start: str) -> bytes:
        return plots.race_animation(maze.walls, maze.goal, lanes(start), every=3)

    def still(start: str) -> bytes:
        figure = plots.race_finish(maze.walls, maze.goal, lanes(start))
        plt.close(figure)
        return picture(figure)

    show(
        render,
        "Four panels of the same maze, animated: eight balls under cloning, Decision Transformer, "
        "IQL and IPD, with a clock and counters of arrivals.",
        [{"start": name} for name in some(list(menu))],
        still,
        start=ipywidgets.Dropdown(options=list(menu), description="start"),
    )


def expectile_slider(samples: Array) -> None:
    """tau over a sample of Q values: where the expectile lies, and the loss that it minimizes."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(7.6, 3.0))
    left.hist(samples, 30, color=plots.SKY, alpha=0.6)
    mark = left.axvline(0, color=plots.VERMILION, lw=2)
    left.set(xlabel="Q of the actions that the data took", ylabel="count")
    grid = np.linspace(samples.min(), samples.max(), 200)
    (curve,) = right.plot(grid, np.zeros_like(grid), color=plots.BLUE)
    lowest = right.axvline(0, color=plots.VERMILION, lw=2)
    right.set(xlabel="candidate for V", ylabel="expectile loss / its largest value", ylim=(0, 1))
    plt.close(figure)
    difference = samples[:, None] - grid

    def render(tau: float) -> bytes:
        position = float(expectile(samples, tau))
        for line in (mark, lowest):
            line.set_xdata([position, position])
        weight = np.where(difference < 0, 1 - tau, tau)
        loss = (weight * difference**2).mean(0)
        curve.set_ydata(loss / loss.max())
        left.set_title(f"tau = {tau:.2f}: V = {position:.2f}, mean Q = {samples.mean():.2f}")
        return picture(figure)

    show(
        render,
        "Left, a histogram of Q values with their expectile as a red line; right, the expectile "
        "loss over the candidate for V, lowest at that same line.",
        [{"tau": 0.5}, {"tau": 0.9}, {"tau": 0.98}],
        tau=ipywidgets.FloatSlider(min=0.02, max=0.98, step=0.02, value=0.9, description="tau"),
    )


def gaussian_sliders() -> None:
    """Two members' Gaussians to move and to widen, and both divergences between them."""
    grid = np.linspace(-4, 4, 300)
    figure = plots.two_gaussians(grid, norm.pdf(grid), norm.pdf(grid), "")
    (ax,) = figure.axes
    second = ax.lines[1]
    plt.close(figure)

    def render(gap: float, ratio: float) -> bytes:
        second.set_ydata(norm.pdf(grid, gap, ratio))
        one = torch.zeros(1), torch.ones(1)
        two = torch.tensor([gap]), torch.tensor([ratio**2])
        dual, primal = float(dual_divergence(*one, *two)), float(primal_divergence(*one, *two))
        ax.set_title(f"dual {dual:.3f} nats, primal {primal:.3f} nats")
        return picture(figure)

    show(
        render,
        "The densities of two members' Gaussians; the title has both divergences between them.",
        [
            {"gap": gap, "ratio": ratio}
            for gap, ratio in ((0.0, 1.0), (1.0, 1.0), (0.0, 3.0), (3.0, 1.0))
        ],
        gap=ipywidgets.FloatSlider(
            min=-3, max=3, step=0.1, value=1, description="distance of the means"
        ),
        ratio=ipywidgets.FloatSlider(
            min=0.3, max=3, step=0.1, value=1, description="deviation of member 2"
        ),
    )


def gap_slider(fits: Mapping[float, Callable[[], Figure]]) -> None:
    """Width of the hole in the data -> the ensemble that was fitted beforehand."""
    drawn = drawn_beforehand(fits)
    show(
        lambda gap: drawn[gap],
        "Left, noisy data with a hole and five members' means and bands; right, the aleatoric and "
        "the epistemic variance, which rises inside the hole.",
        [{"gap": width} for width in some(list(fits))],
        gap=ipywidgets.SelectionSlider(
            options=[(f"{width:g}", width) for width in fits],
            value=list(fits)[len(fits) // 2],
            description="width of the hole in the data",
        ),
    )


def plan_sliders(
    walls: NDArray[np.bool_],
    goal: Array,
    fans: Mapping[int, tuple[Array, Array, Array]],
    thresholds: Mapping[float, float],
    top: int,
) -> None:
    """Horizon, number of candidates and gate over plans made beforehand.

    Args:
        fans: horizon -> paths (N, H + 1, 2), scores (N,), largest U on each path (N,).
        thresholds: quantile -> U that may not be exceeded.
    """
    figure, ax = plt.subplots(figsize=(5.0, 3.9))
    plots.maze(ax, walls, goal)
    everything = np.concatenate([scores for _, scores, _ in fans.values()])
    scale = Normalize(float(np.quantile(everything, 0.05)), float(everything.max()))
    kept = plots.trajectories(ax, [], np.zeros(0), "score of the plan (return)", scale)
    refused = LineCollection([], color=plots.GREY, lw=0.6, ls=":", zorder=2)
    ax.add_collection(refused)
    first_paths = next(iter(fans.values()))[0]
    ax.plot(*first_paths[0, 0], "o", color=plots.ORANGE, ms=6, zorder=6)
    plots.around(ax, np.concatenate([paths.reshape(-1, 2) for paths, _, _ in fans.values()]))
    plt.close(figure)

    def render(horizon: int, candidates: int, quantile: float) -> bytes:
        paths, scores, doubt = (array[:candidates] for array in fans[horizon])
        inside = doubt <= thresholds[quantile]
        order = np.argsort(scores[inside])
        kept.set_segments(list(paths[inside][order]))
        kept.set_array(scores[inside][order])
        kept.set_linewidth([2.4 if i >= len(order) - top else 0.8 for i in range(len(order))])
        refused.set_segments(list(paths[~inside]))
        best = f"best {scores[inside].max():.1f}" if inside.any() else "none left"
        ax.set_title(f"{int(inside.sum())} of {len(paths)} futures pass the gate, {best}")
        return picture(figure)

    most = len(next(iter(fans.values()))[1])
    horizons, quantiles = list(fans), list(thresholds)
    show(
        render,
        "A planner's candidate futures in the maze, coloured by score, the best thick, those that "
        "the gate refuses dotted; the title counts what passes.",
        [{}, {"quantile": quantiles[0]}, {"horizon": horizons[0]}, {"horizon": horizons[-1]}],
        horizon=ipywidgets.SelectionSlider(
            options=horizons, value=horizons[len(fans) // 2], description="horizon (decisions)"
        ),
        candidates=ipywidgets.IntSlider(
            min=top, max=most, value=min(30, most), description="candidates"
        ),
        quantile=ipywidgets.SelectionSlider(
            options=quantiles, value=quantiles[-1], description="gate: quantile of U"
        ),
    )


def alpha_slider(
    walls: NDArray[np.bool_],
    goal: Array,
    runs: Mapping[float, Sequence[Array]],
    scores: Mapping[float, Sequence[float]],
) -> None:
    """alpha over saved runs: the policy's paths from the same starts, and every seed's score."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(7.8, 3.5), width_ratios=(1.1, 1))
    plots.maze(left, walls, goal)
    paths = LineCollection([], color=plots.BLUE, lw=1, zorder=4)
    left.add_collection(paths)
    names = [f"{alpha:g}" for alpha in scores]
    for place, values in enumerate(scores.values()):
        right.plot(np.full(len(values), place), list(values), "o", color=plots.BLUE, ms=4)
    means = [float(np.mean(values)) for values in scores.values()]
    right.plot(range(len(means)), means, "-", color=plots.BLUE)
    mark = right.axvline(0, color=plots.VERMILION, ls="--")
    right.set_xticks(range(len(names)), names)
    right.set(xlabel="alpha", ylabel="normalized score", title="every seed, and their mean")
    plt.close(figure)
    order = list(scores)

    def render(alpha: float) -> bytes:
        paths.set_segments(list(runs[alpha]))
        place = order.index(alpha)
        mark.set_xdata([place, place])
        left.set_title(f"alpha = {alpha:g}: mean score {means[place]:.1f}")
        return picture(figure)

    show(
        render,
        "Left, the policy's paths in the maze from eight starts; right, the score of every seed "
        "over alpha.",
        [{"alpha": alpha} for alpha in some(order)],
        alpha=ipywidgets.SelectionSlider(
            options=[(name, alpha) for name, alpha in zip(names, order, strict=True)],
            value=order[len(order) // 2],
            description="alpha",
        ),
    )
