"""Train all seeds of a method; each thread is a worker process of one thread, and the bits the same.

`--set-threads train=4` trains four clients at a time.
"""


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
        " --variant {wildcards.variant} --workers {threads} > {log} 2>&1"


rule tune:
    input:
        trained_trials,
    output:
        outputs("tune", PARAMS),
    log:
        "logs/tune/{archive}/{clients}.log",
    benchmark:
        "logs/tune/{archive}/{clients}.tsv"
    conda:
        CPU
    threads: 1
    resources:
        mem_mb=memory(1000),
        runtime=minutes(10),
    params:
        values=values_of("tune"),
        code=code.digest("tune"),
    message:
        "Choose hyper-parameters on the validation split of {wildcards.archive}"
    shell:
        'python -m mmfl.cli tune --params "$MMFL_PARAMS"'
        " --archive {wildcards.archive} > {log} 2>&1"
