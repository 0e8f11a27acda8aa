"""Fixtures: the workflows that are drawn are reported, too."""

from tests.draw.conftest import failing_dot, order, orders, without_any, without_dot

__all__ = ["failing_dot", "order", "orders", "without_any", "without_dot"]
