"""Encode the patches of an archive into shards; afterwards each modality stands alone."""


rule split:
    input:
        reads("split"),
    output:
        outputs("split", PARAMS),
    log:
        "logs/split/{archive}.log",
    benchmark:
        "logs/split/{archive}.tsv"
    conda:
        CPU
    threads: 8
    resources:
        mem_mb=memory(4000),
        runtime=minutes(480),
    params:
        values=values_of("split"),
        code=code_of("split"),
    message:
        "Encode {wildcards.archive}"
    shell:
        '"$MMFL_RUN" {log} split --params "$MMFL_PARAMS"'
        " --archive {wildcards.archive} --workers {threads}"
