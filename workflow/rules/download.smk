"""Fetch and verify the files of an archive; `simulate` writes one that nobody publishes."""


rule simulate:
    output:
        temp(touch(READY)),
    log:
        "logs/simulate/{archive}.log",
    benchmark:
        "logs/simulate/{archive}.tsv"
    wildcard_constraints:
        archive="|".join(SIMULATED),
    conda:
        CPU
    threads: 1
    resources:
        mem_mb=memory(1500),
        runtime=minutes(30),
    params:
        values=values_of("simulate"),
        code=code_of("simulate"),
    message:
        "Draw {wildcards.archive}"
    shell:
        '"$MMFL_RUN" {log} simulate --params "$MMFL_PARAMS"'
        " --archive {wildcards.archive}"


rule download:
    input:
        source,
    output:
        outputs("download", PARAMS),
    log:
        "logs/download/{archive}.log",
    benchmark:
        "logs/download/{archive}.tsv"
    retries: 3
    conda:
        CPU
    threads: 1
    resources:
        mem_mb=memory(1000),
        runtime=minutes(1440),
    params:
        values=values_of("download"),
        code=download_code,
    message:
        "Download and verify {wildcards.archive}"
    shell:
        '"$MMFL_RUN" {log} download --params "$MMFL_PARAMS"'
        " --archive {wildcards.archive}"
