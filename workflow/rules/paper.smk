PAPER = f"paper/{CONFIG.scale}/paper.pdf"


# The replication report: what it says of the results is written as JSON, then Typst compiles it.
rule write_paper:
    input:
        source="paper/main.typ",
        parts=["paper/facts.typ", "paper/references.bib"],
        figures=FIGURES,
        tables=multiext(f"{RESULTS}/tables/", "runs.parquet", "claims.parquet"),
        ledger="config/claims.yaml",
        config=f"{RESULTS}/specs/config.json",
        code=["src/lowrank/report/paper.py", "src/lowrank/analysis/evidence.py"],
        published=PUBLISHED_FILES,
    output:
        report(
            PAPER,
            caption="../report/paper.rst",
            category="The report as PDF",
            labels={"track": "all", "shown": "paper"},
        ),
    log:
        f"{RESULTS}/logs/write_paper.log",
    params:
        tables=f"{RESULTS}/tables",
        figures=f"figures/{CONFIG.scale}",
        data=f"{RESULTS}/paper",
        published=f"--published {PUBLISHED}" if PUBLISHED_FILES else "",
    message:
        "Writing the report of {CONFIG.scale}"
    shell:
        "lowrank paper --config {input.config} --ledger {input.ledger} --tables {params.tables}"
        " --figures {params.figures} {params.published} --source {input.source}"
        " --data {params.data} --output {output} 2>&1 | tee {log}"
