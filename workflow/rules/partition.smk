"""Decide which client holds which patches in which modality; no shard is opened."""


rule partition:
    input:
        reads("partition"),
    output:
        outputs("partition", PARAMS),
    log:
        "logs/partition/{archive}/{clients}.log",
    benchmark:
        "logs/partition/{archive}/{clients}.tsv"
    conda:
        CPU
    threads: 1
    resources:
        mem_mb=memory(2000),
        runtime=minutes(30),
    params:
        values=values_of("partition"),
        code=code_of("partition"),
    message:
        "Partition {wildcards.archive} into {wildcards.clients}"
    shell:
        '"$MMFL_RUN" {log} partition --params "$MMFL_PARAMS"'
        " --archive {wildcards.archive}"
