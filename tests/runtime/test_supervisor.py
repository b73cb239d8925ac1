"""How long to wait before a worker is replaced, and how often that is allowed."""

from __future__ import annotations

import pytest

from trt_yolo.runtime.supervisor import RestartBudget, back_off_s


@pytest.mark.parametrize(
    ("failures", "wait_s"),
    [(0, 0.0), (1, 0.1), (2, 0.2), (3, 0.4), (6, 3.2), (7, 5.0), (8, 5.0), (1000, 5.0)],
)
def test_waiting_doubles_with_every_failure_in_a_row_up_to_5_s(failures: int, wait_s: float) -> None:
    assert back_off_s(failures) == pytest.approx(wait_s)


def test_a_worker_that_fails_for_hours_is_waited_for_as_long_as_before() -> None:
    assert back_off_s(2000) == 5.0


@pytest.mark.parametrize(
    ("most", "times_s", "wanted"),
    [
        pytest.param(0, [0.0], [False], id="none-allowed"),
        pytest.param(2, [0, 1, 2, 3], [True, True, False, False], id="too-many-in-a-minute"),
        pytest.param(2, [0, 30, 61, 92], [True, True, True, True], id="a-minute-forgets"),
        pytest.param(2, [0, 30, 60], [True, True, False], id="the-minute-itself-counts"),
        pytest.param(1, [0, 50, 100, 161], [True, False, False, True], id="refused-ones-count-too"),
        pytest.param(1, [1000, 1000], [True, False], id="at-once"),
    ],
)
def test_a_budget_counts_the_last_minute(most: int, times_s: list[float], wanted: list[bool]) -> None:
    budget = RestartBudget(most)
    assert [budget.spend(now_s) for now_s in times_s] == wanted


def test_budgets_do_not_share_what_they_count() -> None:
    RestartBudget(1).spend(0)
    assert RestartBudget(1).spend(0)
