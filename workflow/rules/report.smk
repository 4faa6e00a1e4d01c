"""Tables, figures and metrics of an archive; the page shows measured seconds too."""


rule report:
    input:
        reads("report"),
    output:
        [described(path) for path in outputs("report", PARAMS)],
    log:
        "logs/report/{archive}/{clients}.log",
    benchmark:
        "logs/report/{archive}/{clients}.tsv"
    conda:
        CPU
    threads: 1
    resources:
        mem_mb=memory(2000),
        runtime=minutes(60),
    params:
        values=values_of("report"),
        code=code_of("report"),
    message:
        "Report {wildcards.archive} ({wildcards.clients})"
    shell:
        '"$MMFL_RUN" {log} report --params "$MMFL_PARAMS"'
        " --archive {wildcards.archive}"


rule page:
    input:
        reads("page"),
    output:
        "page/{archive}.html",
    log:
        "logs/page/{archive}.log",
    benchmark:
        "logs/page/{archive}.tsv"
    conda:
        CPU
    threads: 1
    resources:
        mem_mb=memory(2000),
        runtime=minutes(30),
    params:
        values=page_values,
        code=code_of("page"),
    message:
        "Write the page of {wildcards.archive}"
    shell:
        '"$MMFL_RUN" {log} page --params "$MMFL_PARAMS"'
        " --archive {wildcards.archive}"
