"""Tables, figures and metrics of an archive; the page shows measured seconds too."""


def described(path):
    """A results file as Snakemake's own report shows it: with caption and category."""
    stem, kind = Path(path).stem, Path(path).parent.name
    if Path(path).suffix not in (".csv", ".svg") or kind not in ("tables", "figures"):
        return path
    if kind == "figures" and Path(path).suffix == ".csv":
        return path
    caption = f"../report/{kind}.rst"
    return report(path, caption=caption, category=kind.capitalize(), labels={"name": stem})


rule report:
    input:
        clients=all_of("partition"),
        runs=all_of("train"),
        scores=all_of("evaluate"),
    output:
        [described(path) for path in outputs("report", PARAMS)],
    params:
        values=values_of("report"),
        code=code.digest("report"),
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
    message:
        "Report {wildcards.archive} ({wildcards.clients})"
    shell:
        MMFL + " --archive {wildcards.archive} > {log} 2>&1"


rule page:
    input:
        clients=all_of("partition"),
        runs=all_of("train"),
        scores=all_of("evaluate"),
        results=all_of("report"),
    output:
        "page/{archive}.html",
    params:
        values=values_of("report"),
        code=code.digest("report"),
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
    message:
        "Write the page of {wildcards.archive}"
    shell:
        MMFL + " --archive {wildcards.archive} > {log} 2>&1"
