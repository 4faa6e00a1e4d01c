"""Fetch and verify the files of an archive; `simulate` writes one that nobody publishes."""


def source(wildcards):
    """What a download starts from: the published manifest, or the simulated archive."""
    if wildcards.archive == "simulated":
        return rules.simulate.output.ready
    return f"data/manifests/{wildcards.archive}.yaml"


def download_code(wildcards):
    """The code of the simulated archive decides its files too."""
    steps = ["download", "simulate"] if wildcards.archive == "simulated" else ["download"]
    return [code.digest(step) for step in steps]


rule simulate:
    output:
        ready=temp(touch("data/raw/simulated/.ready")),
    params:
        values=values_of("simulate"),
        code=code.digest("simulate"),
    log:
        "logs/simulate/simulated.log",
    benchmark:
        "logs/simulate/simulated.tsv"
    conda:
        CPU
    threads: 1
    resources:
        mem_mb=memory(1500),
        runtime=minutes(30),
    message:
        "Simulate the archive"
    shell:
        MMFL + " > {log} 2>&1"


rule download:
    input:
        source,
    output:
        outputs("download", PARAMS),
    params:
        values=values_of("download"),
        code=download_code,
    log:
        "logs/download/{archive}.log",
    benchmark:
        "logs/download/{archive}.tsv"
    conda:
        CPU
    threads: 1
    retries: 3
    resources:
        mem_mb=memory(1000),
        runtime=minutes(1440),
    message:
        "Download and verify {wildcards.archive}"
    shell:
        MMFL + " --archive {wildcards.archive} > {log} 2>&1"
