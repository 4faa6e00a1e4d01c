"""Score all seeds of a method on the test patches."""


rule evaluate:
    input:
        reads("evaluate"),
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
        code=code_of("evaluate"),
    message:
        "Evaluate {wildcards.method} ({wildcards.variant}) on {wildcards.archive}"
    shell:
        '"$MMFL_RUN" {log} evaluate --params "$MMFL_PARAMS"'
        " --archive {wildcards.archive} --method {wildcards.method}"
        " --variant {wildcards.variant}"
