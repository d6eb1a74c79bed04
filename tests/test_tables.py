"""Statistics against brute force, and tables that say what they show."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import mannwhitneyu

from ipd_lite.report import gather, results, tables
from ipd_lite.report.catalogue import catalogue
from ipd_lite.report.results import aggregate, aggregates, summarize
from ipd_lite.report.statistics import (
    Interval,
    improvement,
    improvement_interval,
    interquartile_mean,
    performance_profile,
    pooled_interquartile_mean,
    pooled_mean,
    stratified_interval,
)
from ipd_lite.report.tables import format_groups, table1_latex, table1_markdown
from ipd_lite.tasks.registry import get_task

ROOT = Path(__file__).resolve().parents[1]
SCORES = st.lists(st.floats(-50, 150), min_size=1, max_size=20)


@given(SCORES)
def test_interquartile_mean_is_the_mean_of_the_sorted_middle(values: list[float]) -> None:
    cut = len(values) // 4
    middle = sorted(values)[cut : len(values) - cut]
    assert interquartile_mean(np.array(values)) == pytest.approx(np.mean(middle), abs=1e-9)


@given(SCORES, SCORES)
def test_improvement_by_counting_pairs(first: list[float], second: list[float]) -> None:
    x, y = np.array(first), np.array(second)
    counted = np.mean([1.0 if a > b else 0.5 if a == b else 0.0 for a in x for b in y])
    assert improvement(x, y) == pytest.approx(counted)
    assert improvement(x, y) + improvement(y, x) == pytest.approx(1)
    u = mannwhitneyu(x, y).statistic
    assert improvement(x, y) == pytest.approx(u / (len(x) * len(y)))


def test_improvement_averages_over_tasks() -> None:
    first = {"a": np.array([2.0, 2.0]), "b": np.array([1.0, 3.0])}
    second = {"b": np.array([2.0, 2.0]), "a": np.array([1.0, 1.0]), "c": np.array([0.0])}
    found = improvement_interval(first, second)
    assert found.mean == pytest.approx((1.0 + 0.5) / 2)
    assert 0.5 <= found.low <= found.mean <= found.high <= 1.0


def test_interval_against_a_bootstrap_in_a_loop() -> None:
    generator = np.random.default_rng(3)
    strata = [generator.normal(10, 4, 6), generator.normal(90, 2, 4)]
    found = stratified_interval(strata, pooled_mean)
    means = [np.mean([generator.choice(s, len(s)).mean() for s in strata]) for _ in range(4_000)]
    low, high = np.quantile(means, [0.025, 0.975])
    assert found.mean == pytest.approx(np.mean([s.mean() for s in strata]))
    assert found.low == pytest.approx(low, abs=0.15)
    assert found.high == pytest.approx(high, abs=0.15)


@given(SCORES, st.integers(2, 4))
def test_every_task_counts_the_same_whatever_its_number_of_runs(
    values: list[float], times: int
) -> None:
    one = np.tile(values, 2)  # an even number: the quarters are whole
    other = np.linspace(0, 100, len(one))
    once = pooled_interquartile_mean(one, other)
    assert pooled_interquartile_mean(np.tile(one, times), other) == pytest.approx(once)
    alike = interquartile_mean(np.concatenate([one, other]))
    assert once == pytest.approx(alike), "with equal numbers: all runs together"


def test_recordings_are_one_number_however_often_they_are_repeated() -> None:
    rows = [
        {"task": task, "method": method, "variant": "", "seed": seed, "checkpoint": checkpoint,
         "score": score + (seed if method == "ipd" else 0), "success": 0.0}
        for task, score in (("hopper-medium", 40.0), ("walker2d-medium", 60.0))
        for method in ("behaviour", "ipd")
        for seed in (0, 1)
        for checkpoint in ("last", "best")
    ]  # fmt: skip
    found = aggregate(pd.DataFrame(rows)).set_index("method")
    assert f"{found.loc['behaviour', 'last_iqm']:.1f}" == "50.0", "no interval"
    assert "[" in f"{found.loc['ipd', 'last_iqm']:.1f}"


def test_seeds_are_resampled_inside_their_task_only() -> None:
    """Two tasks far apart without spread: resampling across them would give a wide interval."""
    found = stratified_interval([np.full(3, 10.0), np.array([89.9, 90.0, 90.1])], pooled_mean)
    assert found.high - found.low < 0.11
    alone = stratified_interval([np.array([1.0])], pooled_mean)
    assert alone.mean == 1.0 and np.isnan(alone.low)


def test_intervals_format_as_the_tables_show_them() -> None:
    found = Interval(1.25, -0.5, 3.0)
    assert f"{found:.1f}" == "1.2 [-0.5, 3.0]" and f"{found:+.1f}" == "+1.2 [-0.5, 3.0]"
    assert f"{Interval(2.0):.0f}" == "2" and f"{Interval():.1f}" == ""


def test_nobody_bootstraps_the_same_scores_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.array([0.125, 3.25, 9.5])
    first = stratified_interval([values], pooled_mean)
    monkeypatch.setattr("scipy.stats.bootstrap", None)
    assert stratified_interval([values.copy()], pooled_mean) is first


def test_profile_by_counting() -> None:
    by_task = {"a": np.array([10.0, 50.0]), "b": np.array([30.0, 30.0, 90.0])}
    share, low, high = performance_profile(by_task, np.array([0.0, 30.0, 95.0]))
    np.testing.assert_allclose(share, [1.0, (0.5 + 1 / 3) / 2, 0.0])
    assert (low <= share).all() and (share <= high).all()
    assert low[0] == high[0] == 1.0


def scores(
    tasks: dict[str, float], methods: dict[str, float], seeds: int = 3, variant: str = ""
) -> pd.DataFrame:
    generator = np.random.default_rng(0)
    return pd.DataFrame(
        [
            {
                "task": task,
                "method": method,
                "variant": variant,
                "seed": seed,
                "checkpoint": label,
                "episodes": 100,
                "return_mean": -1.0,
                "score": base + gain + generator.random() + (label == "best"),
                "success": 1.0,
                "wall_seconds": 1.0,
            }
            for task, base in tasks.items()
            for method, gain in methods.items()
            for seed in range(seeds)
            for label in ("last", "best")
        ]
    )


MAZES = {"pointmaze-umaze": 10.0, "pointmaze-medium": 40.0}


def test_aggregate_leaves_incomplete_methods_without_numbers() -> None:
    table = pd.concat(
        [scores(MAZES, {"iql": 5, "ipd": 20}), scores({"pointmaze-umaze": 0}, {"dt": 0})]
    )
    found = aggregate(table).set_index("method")
    assert found.loc["dt", "tasks"] == 1 and np.isnan(found.loc["dt", "last"].mean)
    last = table[(table["checkpoint"] == "last") & (table["method"] == "ipd")]
    per_task = last.groupby("task")["score"].mean()
    assert found.loc["ipd", "last"].mean == pytest.approx(per_task.mean())
    assert found.loc["ipd", "last_iqm"].mean == pytest.approx(
        np.sort(last["score"])[1:-1].mean()  # six runs: one is cut at either end
    )
    assert found.loc["iql", "ipd_better"].mean == 1.0
    assert np.isnan(found.loc["ipd", "ipd_better"].mean)
    for method in ("iql", "ipd"):
        assert found.loc[method, "best"].mean > found.loc[method, "last"].mean


def test_groups_of_tasks_and_all_together() -> None:
    robots = {"hopper-medium": 0.0, "walker2d-medium": 0.0}
    table = pd.concat(
        [
            scores({**MAZES, **robots}, {"ipd": 20, "iql": 5}),
            scores(MAZES, {"ipd-noaug": 9}),
            scores({**MAZES, "door-human": 0.0}, {"ipd-x2": 7}),
            scores(MAZES, {"ipd": 3}, variant="short"),
        ]
    )
    groups = aggregates(table)
    assert {name: len(members) for name, (members, _) in groups.items()} == {
        "mazes": len(MAZES),
        "locomotion": 2,
        "all tasks": len(MAZES) + 2,
    }
    for _, found in groups.values():
        assert not set(found["method"]) & {"ipd-x2", "ipd@short"}
    lines = [line.split(" | ") for line in format_groups(groups).splitlines()]
    assert lines[0][1::2] == ["mazes (2)", "locomotion (2)", "all tasks (4)"]
    by_method = {line[0].removeprefix("| "): line[1:] for line in lines[2:]}
    assert list(by_method) == ["iql", "ipd-noaug", "ipd"]
    assert by_method["iql"][1].startswith("1.00") and by_method["ipd"][1] == ""
    assert by_method["ipd-noaug"][0] and not any(x.strip(" |") for x in by_method["ipd-noaug"][2:])


def test_variants_are_methods_of_their_own() -> None:
    table = pd.concat([scores(MAZES, {"ipd": 20}), scores(MAZES, {"ipd": 3}, variant="short")])
    assert set(summarize(table)["method"]) == {"ipd", "ipd@short"}


def test_text_under_the_table_names_score_data_and_environment() -> None:
    table = scores({**MAZES, "unheard-of": 1.0}, {"iql": 5, "ipd": 20})
    facts = catalogue(MAZES).set_index("task")
    text = table1_markdown(table, summarize(table), aggregates(table), facts, None)
    for name in MAZES:
        task = get_task(name)
        for part in (task.dataset, task.environment, task.score_definition):
            assert part in text
    assert "unheard-of: not in this version" in text
    assert "Last" in text and "Best" in text.title() and "100" in text
    assert "Other data" not in text


def test_published_numbers_stand_apart() -> None:
    published = pd.read_csv(ROOT / "figures" / "data" / tables.PUBLISHED)
    assert published[["dataset", "method"]].duplicated().sum() == 0
    assert published["source"].notna().all() and published["score"].between(-5, 120).all()
    table = scores(MAZES, {"iql": 5, "ipd": 20})
    facts = catalogue(MAZES).set_index("task")
    text = table1_markdown(table, summarize(table), aggregates(table), facts, published)
    ours, others = text.split("## Other data")
    assert "must not be compared" in others and "CORL" in others
    assert "halfcheetah-medium-v2" not in ours and "pointmaze" not in others
    latex = table1_latex(summarize(table), published)
    assert latex.count("\\begin{table}") == latex.count("\\end{table}") == 2
    for line in latex.splitlines():
        if line.endswith("\\\\") and line.startswith("pointmaze"):
            assert line.count("&") == 2


def test_a_slice_replaces_its_own_rows_only(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "scores.csv"
    whole = scores(MAZES, {"iql": 5, "ipd": 20})
    assert gather.with_earlier(file, whole) is whole
    whole.to_csv(file, index=False)
    assert gather.with_earlier(file, whole) is whole and not capsys.readouterr().err
    again = whole[(whole["seed"] == 1) & (whole["method"] == "iql")].assign(score=-7.0)
    variant = scores(MAZES, {"ipd": 3}, seeds=1, variant="short")
    found = gather.in_order(gather.with_earlier(file, pd.concat([variant, again])))
    assert f"kept {len(whole) - len(again)} rows" in capsys.readouterr().err
    assert len(found) == len(whole) + len(variant)
    assert (found["score"] == -7.0).sum() == len(again)
    assert not found.duplicated(["task", "method", "variant", "seed", "checkpoint"]).any()
    assert found["task"].is_monotonic_increasing
    assert found["method"].drop_duplicates().tolist() == ["iql", "ipd"]  # the registry's order


def test_curves_compare_the_same_seeds() -> None:
    table = pd.DataFrame(
        [
            {"task": t, "seed": s, "amount": a, "score": 1.0}
            for t, most in (("one", 3), ("two", 2))
            for a in (0.0, 1.0, 4.0)
            for s in range(most)
        ]
        + [{"task": "one", "seed": 7, "amount": 1.0, "score": 9.0}]
    )
    found = results.comparable(table, ["amount"])
    assert len(found) == 9 + 6 and 7 not in set(found["seed"])
    assert results.comparable(table[:0], ["amount"]).empty


def test_amounts_and_targets_are_read_from_methods_and_variants() -> None:
    table = pd.concat(
        [
            scores(MAZES, {"ipd-noaug": 0, "ipd-x0.5": 1, "ipd": 2, "ipd-x4": 3, "dt": 0}),
            scores(MAZES, {"ipd-rtg": 0}, variant="target_level=0.25"),
            scores(MAZES, {"ipd-rtg": 0}, variant="other=0.25"),
        ]
    )
    amount = results.amounts(table)
    assert sorted(set(amount["amount"])) == [0, 0.5, 1, 4] and len(amount) == 4 * 2 * 3
    level = results.targets(table)
    assert set(level["level"]) == {0.25} and len(level) == 2 * 3
