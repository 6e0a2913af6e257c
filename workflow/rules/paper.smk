# The replication report: what it says of the results is written as JSON, then Typst compiles it.
rule write_paper:
    input:
        source=SCALE.source("paper/main.typ"),
        parts=[
            SCALE.source(f"paper/{part}") for part in ("facts.typ", "references.bib")
        ],
        figures=SCALE.figures.files,
        runs=SCALE.table("runs"),
        claims=SCALE.table("claims"),
        ledger=LEDGER,
        code=[
            str(SCALE.package / "reports/paper.py"),
            *SCALE.analysis("evidence", "settled"),
        ],
        published=SCALE.published,
    output:
        report(
            SCALE.paper,
            caption="../report/paper.rst",
            category="The report as PDF",
            labels={"track": "all", "shown": "paper"},
        ),
    log:
        f"{RESULTS}/logs/write_paper.log",
    conda:
        "../envs/lowrank.yaml"
    params:
        config=SCALE.config_file,
        digest=SCALE.experiment.of_tables(),
        figures=lambda wildcards: SCALE.figures.folder,
        data=f"{RESULTS}/paper",
        published=[f"--published $(dirname {path})" for path in SCALE.published],
    message:
        f"Writing the report of {SCALE.name}"
    shell:
        "lowrank paper --config {params.config} --ledger {input.ledger}"
        " --tables $(dirname {input.claims}) --figures {params.figures} {params.published}"
        " --source {input.source} --data {params.data} --output {output} 2>&1 | tee {log}"
