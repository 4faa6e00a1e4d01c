"""MF, multi-modal FedAvg: the strategy that all others depart from."""

from mmfl.strategies.base import Strategy


class Mf(Strategy):
    """The defaults of `Strategy` as they are (1602.05629; per modality 2109.04833)."""
