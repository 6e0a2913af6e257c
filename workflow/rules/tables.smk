# Gather every table of the scale; based on the published ones where results_from says so.
rule collect_tables:
    input:
        cells=[SCALE.cell_tables(name) for name in SCALE.experiment.trained],
        evaluations=SCALE.evaluations,
        rates=SCALE.trained_rates(),
        others=[path for _, path in SCALE.collected],
        published=SCALE.published,
        code=SCALE.table_sources,
    output:
        SCALE.gathered,
    log:
        f"{RESULTS}/logs/collect_tables.log",
    conda:
        "../envs/lowrank.yaml"
    params:
        config=SCALE.config_file,
        digest=SCALE.experiment.of_tables(),
        cells=[f"--cell {RESULTS}/cells/{name}" for name in SCALE.experiment.trained],
        evaluations=[f"--evaluation {path}" for path in SCALE.evaluations],
        rates=[f"--rates {path}" for path in SCALE.trained_rates()],
        others=[f"--other {name}={path}" for name, path in SCALE.collected],
        published=[f"--published $(dirname {path})" for path in SCALE.published],
        data=f"--data {RESULTS}/data" if SCALE.ground else "",
        output=lambda wildcards, output: output[0].rsplit("/", 1)[0],
    message:
        "Collecting tables"
    shell:
        "lowrank tables --config {params.config} {params.cells} {params.evaluations} {params.rates}"
        " {params.others} {params.published} {params.data}"
        " --output {params.output} 2>&1 | tee {log}"


# Judge the paper's claims by the ledger's margins.
rule judge_claims:
    input:
        tables=SCALE.gathered,
        ledger=LEDGER,
        code=SCALE.analysis("claims", "described", "ledger", "matching"),
    output:
        SCALE.table("claims"),
    log:
        f"{RESULTS}/logs/judge_claims.log",
    conda:
        "../envs/lowrank.yaml"
    params:
        config=SCALE.config_file,
        digest=SCALE.experiment.of_tables(),
    message:
        "Judging the claims"
    shell:
        "lowrank claims --config {params.config} --ledger {input.ledger}"
        " --tables $(dirname {output}) --output {output} 2>&1 | tee {log}"


# Write published/<scale>: the tables, thinned, with a SHA-256 manifest. Asked for by name only.
rule publish:
    input:
        tables=SCALE.gathered,
        claims=SCALE.table("claims"),
        ledger=LEDGER,
        others=SCALE.intermediate,
    log:
        f"{RESULTS}/logs/publish.log",
    conda:
        "../envs/lowrank.yaml"
    params:
        config=SCALE.config_file,
        output=f"published/{SCALE.name}",
    message:
        f"Publishing the tables of {SCALE.name}"
    shell:
        "lowrank publish --config {params.config} --ledger {input.ledger}"
        " --tables $(dirname {input.claims}) --output {params.output} 2>&1 | tee {log}"
