"""The compared algorithms: names, own hyper-parameters, and which compositions make sense.

The algorithms themselves are in `mmfl/strategies/`, one file each. What is here is read by
Snakemake and DVC, which do not load torch.
"""

from __future__ import annotations

from pydantic import Field

from mmfl.facts.faults import Fault
from mmfl.params.sections import FINITE, SMALL, WEIGHT, Section, Temperature, Weight, one_of


class FedProx(Section):
    """1812.06127."""

    mu: Weight = Field(0.01, description="weight of mu/2 |w_i - w|^2")


class Scaffold(Section):
    """1910.06378, option II."""

    server_rate: float = Field(1.0, gt=0, le=FINITE, description="eta_g")


class Moon(Section):
    """2103.16257."""

    mu: Weight = Field(1.0, description="weight of the contrastive term")
    temperature: Temperature = Field(0.5, description="tau")


class FedDyn(Section):
    """2111.04263."""

    alpha: float = Field(0.01, ge=SMALL, le=WEIGHT, description="weight of the quadratic")


class FedDc(Section):
    """2203.11751."""

    alpha: float = Field(0.01, ge=SMALL, le=WEIGHT, description="weight of the quadratic")


class FedAvgM(Section):
    """1909.06335."""

    beta: float = Field(0.9, ge=0, lt=1, description="momentum of the server")


class FedAdam(Section):
    """2003.00295, algorithm 2."""

    server_rate: float = Field(0.03, gt=0, le=FINITE, description="eta_s")
    beta1: float = Field(0.9, ge=0, lt=1)
    beta2: float = Field(0.99, ge=0, lt=1)
    tau: float = Field(1e-3, ge=1e-12, le=1, description="added to the root of the second moment")


class Prototypes(Section):
    """2401.13898; for the method `prototypes` and the module `+prototypes`."""

    weight: Weight = Field(0.1, description="lambda")
    temperature: Temperature = Field(0.5, description="tau")


class Algorithms(Section):
    """Own hyper-parameters of the compared algorithms (docs/algorithms.md), a field for each."""

    fedprox: FedProx = FedProx()  # type: ignore[call-arg]
    scaffold: Scaffold = Scaffold()  # type: ignore[call-arg]
    moon: Moon = Moon()  # type: ignore[call-arg]
    feddyn: FedDyn = FedDyn()  # type: ignore[call-arg]
    feddc: FedDc = FedDc()  # type: ignore[call-arg]
    fedavgm: FedAvgM = FedAvgM()  # type: ignore[call-arg]
    fedadam: FedAdam = FedAdam()  # type: ignore[call-arg]
    prototypes: Prototypes = Prototypes()  # type: ignore[call-arg]


ANCHORS = ("prior", "local", "centralised-steps", "centralised-epochs", "late-fusion")
WITHOUT = ("mf", "fedbn", "fednova")  # algorithms without hyper-parameters of their own
FEDERATED = (*WITHOUT, *Algorithms.model_fields)
BASES = ANCHORS + FEDERATED
MODULES = ("fw", "mim", "prototypes")
OPTIMISERS = {  # what an algorithm's mathematics assumes of the local optimiser
    "scaffold": "plain SGD: c_i is a mean gradient, (w - w_i) / (K eta)",
    "feddc": "plain SGD: g_i is a mean gradient, (w - w_i) / (K eta)",
    "fednova": "SGD: |a_i| is known for SGD with or without momentum",
}


def parse_method(name: str) -> tuple[str, tuple[str, ...]]:
    """Split `scaffold+fw+mim` into the base algorithm and its modules.

    `prototypes` alone is `mf` with that module.

    Raises:
        ValueError: a part does not exist, or the parts do not go together; says why.
    """
    base, *modules = name.split("+")
    one_of(base, BASES, "method")
    for module in modules:
        one_of(module, MODULES, "module")
    if len(set(modules)) != len(modules) or (base == "prototypes" and base in modules):
        raise ValueError(f"method {name}: a module is named twice")
    if modules != [m for m in MODULES if m in modules]:
        order = "+".join([base, *(m for m in MODULES if m in modules)])
        raise ValueError(f"method {name}: write it as {order}")
    if base == "prior" and modules:
        raise ValueError(f"method {name}: prior has no network for {modules[0]}")
    if base == "late-fusion" and set(modules) - {"fw"}:
        raise ValueError(
            f"method {name}: late-fusion keeps the modalities' federations apart, so nothing "
            f"of one reaches the other for {modules[-1]}; use mf+{modules[-1]}"
        )
    if base in ANCHORS and "prototypes" in modules:
        raise ValueError(
            f"method {name}: prototypes are averaged by a server over clients, and {base} has none"
        )
    return base, tuple(modules)


def parts(name: str) -> tuple[str, tuple[str, ...]]:
    """`parse_method` with `prototypes` written out: the strategy's file and the modules to add."""
    base, modules = parse_method(name)
    return ("mf", (*modules, base)) if base == "prototypes" else (base, modules)


def check_optimiser(name: str, optimiser: str, momentum: float) -> None:
    """Refuse a local optimiser for which an algorithm's formulas do not hold."""
    base, _ = parse_method(name)
    needed = OPTIMISERS.get(base)
    if needed is None:
        return
    if optimiser != "sgd":
        raise Fault(
            ("train", "optimiser"), f"found {optimiser}, expected sgd: {name} needs {needed}"
        )
    if momentum and needed.startswith("plain"):
        raise Fault(("train", "momentum"), f"found {momentum}, expected 0: {name} needs {needed}")
