"""Score all seeds of a method on the test patches."""


rule evaluate:
    input:
        patches=all_of("split"),
        clients=clients_table,
        runs=outputs("train", PARAMS),
    output:
        outputs("evaluate", PARAMS),
    log:
        "logs/evaluate/{archive}/{clients}/{method}/{variant}.log",
    benchmark:
        "logs/evaluate/{archive}/{clients}/{method}/{variant}.tsv"
    conda:
        TRAINING
    threads: 1
    resources:
        mem_mb=memory(2000),
        runtime=minutes(60),
    params:
        values=values_of("evaluate"),
        code=code.digest("evaluate"),
    message:
        "Evaluate {wildcards.method} ({wildcards.variant}) on {wildcards.archive}"
    shell:
        '"$MMFL_RUN" {log} evaluate --params "$MMFL_PARAMS"'
        " --archive {wildcards.archive} --method {wildcards.method}"
        " --variant {wildcards.variant}"
