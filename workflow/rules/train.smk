"""Train all seeds of a method in one process, on one thread: the bits depend on their number."""


rule train:
    input:
        patches=all_of("split"),
        clients=clients_table,
    output:
        outputs("train", PARAMS),
    log:
        "logs/train/{archive}/{clients}/{method}/{variant}.log",
    benchmark:
        "logs/train/{archive}/{clients}/{method}/{variant}.tsv"
    conda:
        TRAINING
    threads: 1
    resources:
        mem_mb=memory(2000),
        runtime=minutes(240),
    params:
        values=values_of("train"),
        code=code.digest("train"),
    message:
        "Train {wildcards.method} ({wildcards.variant}) on {wildcards.archive}"
    shell:
        'python -m mmfl.cli train --params "$MMFL_PARAMS"'
        " --archive {wildcards.archive} --method {wildcards.method}"
        " --variant {wildcards.variant} > {log} 2>&1"
