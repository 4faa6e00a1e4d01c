"""Algorithms by name. A new one: a file with a `Strategy`, a line here, its tests, its docs row."""

from mmfl.strategies.centralised import CentralisedEpochs, CentralisedSteps
from mmfl.strategies.late_fusion import LateFusion
from mmfl.strategies.local import Local
from mmfl.strategies.mf import Mf
from mmfl.strategies.prior import Prior

STRATEGIES = {
    "prior": Prior,
    "local": Local,
    "centralised-steps": CentralisedSteps,
    "centralised-epochs": CentralisedEpochs,
    "late-fusion": LateFusion,
    "mf": Mf,
}
