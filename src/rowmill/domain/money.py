"""Prices as exact decimals: a batch adds up a million of them, and nobody should find a rounding in the sum."""

from __future__ import annotations

from decimal import Context, Decimal, Inexact, InvalidOperation
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

# No model is priced finer, and no run costs more: what lies beyond is a fault, and would break an exact sum.
MOST_DECIMALS = 30
TOO_MUCH = Decimal(10) ** 12
_LONGEST = 60

# Wide enough for a sum of 10**18 such prices; rounds nothing, or raises.
_EXACT = Context(prec=80, traps=[Inexact, InvalidOperation])


def read_price(value: Any) -> Decimal | None:
    """A price from Dify's JSON, where it is a text (a number is taken by its digits); None for what is no price."""
    if value is None or isinstance(value, bool) or len(text := str(value)) > _LONGEST:
        return None
    try:
        price = Decimal(text)
    except InvalidOperation:
        return None
    exponent = price.as_tuple().exponent
    if not isinstance(exponent, int) or -exponent > MOST_DECIMALS or not 0 <= price < TOO_MUCH:
        return None
    return price


def show_price(price: Decimal) -> str:
    """Plain digits, never `5E-7`."""
    return f"{price:f}"


def total(prices: Iterable[Decimal]) -> Decimal:
    """The sum, exact to the last digit."""
    found = Decimal(0)
    for price in prices:
        found = _EXACT.add(found, price)
    return found


def sum_prices(told: Iterable[tuple[str | None, str | None]]) -> dict[str, Decimal]:
    """(price, currency) of many runs -> the sum of each currency; '' where none was named."""
    found: dict[str, Decimal] = {}
    for text, currency in told:
        price = read_price(text)
        if price is not None:
            name = currency or ""
            found[name] = _EXACT.add(found.get(name, Decimal(0)), price)
    return dict(sorted(found.items()))
