"""Algorithms by name. A new one: a file with a `Strategy`, a line here, its tests, its docs row."""

from mmfl.strategies.base import Strategy
from mmfl.strategies.centralised import CentralisedEpochs, CentralisedSteps
from mmfl.strategies.fedadam import FedAdam
from mmfl.strategies.fedavgm import FedAvgM
from mmfl.strategies.fedbn import FedBn
from mmfl.strategies.feddc import FedDc
from mmfl.strategies.feddyn import FedDyn
from mmfl.strategies.fednova import FedNova
from mmfl.strategies.fedprox import FedProx
from mmfl.strategies.late_fusion import LateFusion
from mmfl.strategies.local import Local
from mmfl.strategies.mf import Mf
from mmfl.strategies.moon import Moon
from mmfl.strategies.prior import Prior
from mmfl.strategies.scaffold import Scaffold

STRATEGIES: dict[str, type[Strategy]] = {
    "prior": Prior,
    "local": Local,
    "centralised-steps": CentralisedSteps,
    "centralised-epochs": CentralisedEpochs,
    "late-fusion": LateFusion,
    "mf": Mf,
    "fedprox": FedProx,
    "scaffold": Scaffold,
    "moon": Moon,
    "fedbn": FedBn,
    "fednova": FedNova,
    "feddyn": FedDyn,
    "feddc": FedDc,
    "fedavgm": FedAvgM,
    "fedadam": FedAdam,
}
