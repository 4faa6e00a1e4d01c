"""Train all seeds of a method in one process, on one thread: the bits depend on their number."""


rule train:
    input:
        patches=all_of("split"),
        clients=clients_table,
    output:
        outputs("train", PARAMS),
    params:
        values=values_of("train"),
        code=code.digest("train"),
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
    message:
        "Train {wildcards.method} ({wildcards.variant}) on {wildcards.archive}"
    shell:
        MMFL
        + " --archive {wildcards.archive} --method {wildcards.method}"
        + " --variant {wildcards.variant} > {log} 2>&1"
