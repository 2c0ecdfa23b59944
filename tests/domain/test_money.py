from __future__ import annotations

from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rowmill.domain.money import read_price, show_price, sum_prices, total

PRICES = {
    "0.000057": "0.000057",
    "0E-7": "0.0000000",
    "5.7e-05": "0.000057",
    "12": "12",
    0.1: "0.1",
    0: "0",
}
NO_PRICES = [
    None,
    "",
    "free",
    "NaN",
    "Infinity",
    "-Infinity",
    "-1",
    True,
    [],
    {},
    "1e12",
    "1e-31",
    "1" * 61,
    "1e999999",
]


@pytest.mark.parametrize(("told", "shown"), PRICES.items())
def test_price(told, shown):
    price = read_price(told)
    assert price is not None
    assert show_price(price) == shown


@pytest.mark.parametrize("told", NO_PRICES, ids=repr)
def test_no_price(told):
    assert read_price(told) is None


def test_floats_would_be_wrong():
    assert total([Decimal("0.1")] * 10) == 1
    assert total([Decimal("999999999999.9"), Decimal("1e-30")]) == Decimal(
        "999999999999.900000000000000000000000000001"
    )
    assert total([]) == 0


@given(st.lists(st.decimals(0, 10**11, places=20), max_size=50))
def test_a_sum_is_exact(prices):
    assert Fraction(total(prices)) == sum(map(Fraction, prices), Fraction(0))


def test_sums_by_currency():
    told = [("0.1", "USD"), ("0.2", "USD"), ("0.3", "RMB"), ("1", None), ("free", "USD"), (None, "USD")]
    assert sum_prices(told) == {"": Decimal(1), "RMB": Decimal("0.3"), "USD": Decimal("0.3")}
