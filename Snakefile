"""Multi-modal federated learning: download, split, partition, train, evaluate, report.

Every value that changes a result is in the parameter file: params.yaml, or another one given with
`--configfile` (it replaces params.yaml as a whole). Runtime settings live in profiles/.
"""

from snakemake.utils import min_version

min_version("9.10")


include: "workflow/rules/common.smk"


if not MODULE:

    configfile: PARAMS_FILE


container: IMAGE


report: "workflow/report/workflow.rst"


include: "workflow/rules/download.smk"
include: "workflow/rules/split.smk"
include: "workflow/rules/partition.smk"
include: "workflow/rules/train.smk"
include: "workflow/rules/evaluate.smk"
include: "workflow/rules/report.smk"
include: "workflow/rules/cluster.smk"


wildcard_constraints:
    archive="|".join(PARAMS.archives),
    clients=clients_name(PARAMS),
    method="[a-z0-9+-]+",
    variant="default|[0-9a-f]{8}",


localrules:
    all,
    tuned,


rule all:
    default_target: True
    input:
        expand("page/{archive}.html", archive=PARAMS.archives),
        [every("report", PARAMS, archive) for archive in PARAMS.archives],
    message:
        "Everything is up to date"


rule tuned:
    input:
        [
            files_of("tune", PARAMS, archive, trials(PARAMS))
            for archive in PARAMS.archives
        ],
    message:
        "Hyper-parameters are chosen"
