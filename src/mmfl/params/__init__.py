"""The schema of `params.yaml` and the only reader of it.

Every value that changes a result is here; runtime settings (cores, partitions, memory) live in
Snakemake profiles. An unknown key, a wrong type or an impossible combination is refused in one
line before anything runs.
"""

from mmfl.params.algorithms import (
    ANCHORS,
    BASES,
    FEDERATED,
    MODULES,
    Algorithms,
    parse_method,
    parts,
)
from mmfl.params.archives import ARCHIVES, SIMULATED, known
from mmfl.params.loading import load, validate
from mmfl.params.registry import ASSIGNMENTS, BACKBONES, SCENARIOS
from mmfl.params.schema import (
    Params,
    RunSpec,
    clients_name,
    entries,
    find_entry,
    label_of,
    resolve,
    runs,
    runs_of,
    step_values,
    train_values,
    trials,
    variant,
)
from mmfl.params.sections import (
    MethodEntry,
    Participation,
    Policy,
    Section,
    one_of,
)

__all__ = [
    "ANCHORS",
    "ARCHIVES",
    "ASSIGNMENTS",
    "BACKBONES",
    "BASES",
    "FEDERATED",
    "MODULES",
    "SCENARIOS",
    "SIMULATED",
    "Algorithms",
    "MethodEntry",
    "Params",
    "Participation",
    "Policy",
    "RunSpec",
    "Section",
    "clients_name",
    "entries",
    "find_entry",
    "known",
    "label_of",
    "load",
    "one_of",
    "parse_method",
    "parts",
    "resolve",
    "runs",
    "runs_of",
    "step_values",
    "train_values",
    "trials",
    "validate",
    "variant",
]
