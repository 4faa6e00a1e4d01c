"""Train all seeds of a method; each thread is a worker process of one thread, and the bits the same.

`--set-threads train=4` trains four clients at a time, `--set-resources train:gpu=2` on two GPUs. A
machine without GPUs ignores `gpu`; on one with several, a job takes those that no other job has.
"""


rule train:
    input:
        reads("train"),
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
        gpu=1,
    params:
        values=values_of("train"),
        code=code_of("train"),
    message:
        "Train {wildcards.method} ({wildcards.variant}) on {wildcards.archive}"
    shell:
        '"$MMFL_RUN" {log} train --params "$MMFL_PARAMS"'
        " --archive {wildcards.archive} --method {wildcards.method}"
        " --variant {wildcards.variant} --workers {threads} --gpus {resources.gpu}"


rule tune:
    input:
        reads("tune"),
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
        code=code_of("tune"),
    message:
        "Choose hyper-parameters on the validation split of {wildcards.archive}"
    shell:
        '"$MMFL_RUN" {log} tune --params "$MMFL_PARAMS"'
        " --archive {wildcards.archive}"
