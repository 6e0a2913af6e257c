# Read the test set, once for every run of a track.
rule evaluate_track:
    input:
        cells=lambda wildcards: [
            cell_tables(name)[0] for name in trained(wildcards.track)
        ],
        specs=lambda wildcards: [cell_spec(name) for name in trained(wildcards.track)],
        rates=lambda wildcards: rate_files(*trained(wildcards.track)),
        version=version("evaluation"),
    output:
        f"{RESULTS}/evaluations/{{track}}.parquet",
    log:
        f"{RESULTS}/logs/evaluate_track/{{track}}.log",
    resources:
        gpu=GPU,
    params:
        **JOB,
        rates=f"{RESULTS}/rates",
    message:
        "Evaluating {wildcards.track}"
    shell:
        "lowrank evaluate {input.specs} --rates {params.rates} --output {output}"
        " --data {params.data} --cache {params.cache} --device {params.device} 2>&1 | tee {log}"


# Losses on the lines from the dense solution to low-rank ones.
rule interpolate:
    input:
        cells=lambda wildcards: [
            cell_tables(name)[0] for name in interpolated(wildcards.track)
        ],
        specs=lambda wildcards: [
            cell_spec(name) for name in interpolated(wildcards.track)
        ],
        rates=lambda wildcards: rate_files(*interpolated(wildcards.track)),
        study=f"{RESULTS}/specs/interpolation/{{track}}.json",
        version=version("interpolation"),
    output:
        points=f"{RESULTS}/interpolation/{{track}}.parquet",
        summary=f"{RESULTS}/barriers/{{track}}.parquet",
    log:
        f"{RESULTS}/logs/interpolate/{{track}}.log",
    resources:
        gpu=GPU,
    params:
        **JOB,
        rates=f"{RESULTS}/rates",
    message:
        "Interpolating between solutions of {wildcards.track}"
    shell:
        "lowrank interpolate {input.specs} --study {input.study} --rates {params.rates}"
        " --points {output.points} --summary {output.summary} --data {params.data}"
        " --cache {params.cache} --device {params.device} 2>&1 | tee {log}"


# Truncate the trained dense models.
rule truncate_posthoc:
    input:
        cell=lambda wildcards: cell_tables(f"{wildcards.track}/dense")[0],
        spec=lambda wildcards: cell_spec(f"{wildcards.track}/dense"),
        rates=lambda wildcards: rate_files(f"{wildcards.track}/dense"),
        study=f"{RESULTS}/specs/posthoc/{{track}}.json",
        version=version("posthoc"),
    output:
        f"{RESULTS}/posthoc/{{track}}.parquet",
    log:
        f"{RESULTS}/logs/truncate_posthoc/{{track}}.log",
    resources:
        gpu=GPU,
    params:
        **JOB,
        rates=f"{RESULTS}/rates",
    message:
        "Truncating the dense models of {wildcards.track}"
    shell:
        "lowrank posthoc {input.spec} --study {input.study}"
        " --rates {params.rates} --output {output} --data {params.data}"
        " --cache {params.cache} --device {params.device} 2>&1 | tee {log}"


# Unigram and bigram models: the bar for a language model.
rule measure_baselines:
    input:
        data=lambda wildcards: prepared(wildcards.track),
        version=version("baselines"),
    output:
        f"{RESULTS}/baselines/{{track}}.parquet",
    log:
        f"{RESULTS}/logs/measure_baselines/{{track}}.log",
    params:
        **JOB,
    message:
        "Measuring n-gram baselines of {wildcards.track}"
    shell:
        "lowrank baselines --data {params.data} --output {output} 2>&1 | tee {log}"


def timed_files(wildcards):
    """What step times depend on: no trained model is among it."""
    names = timed(wildcards.track)
    files = [*map(cell_spec, names), *rate_files(*names), prepared(wildcards.track)]
    return [*files, version("speed")]


# Time training steps, dense and factorised taking turns. It waits until all is trained and takes every
# core, because nothing else may run meanwhile.
rule measure_speed:
    input:
        timed=timed_files,
        specs=lambda wildcards: [cell_spec(name) for name in timed(wildcards.track)],
        trained=lambda wildcards: waited_for(
            [cell_tables(name)[0] for name in TRAINED],
            timed_files(wildcards),
            f"{RESULTS}/speed/{wildcards.track}.parquet",
        ),
    output:
        f"{RESULTS}/speed/{{track}}.parquet",
    log:
        f"{RESULTS}/logs/measure_speed/{{track}}.log",
    threads: workflow.cores if MEASURED else 1
    resources:
        gpu=GPU,
    params:
        **JOB,
        rates=f"{RESULTS}/rates",
        rounds=5 if MEASURED else 2,
    message:
        "Timing training steps of {wildcards.track}"
    shell:
        "OMP_NUM_THREADS=1 lowrank speed {input.specs} --rates {params.rates} --data {params.data}"
        " --device {params.device} --rounds {params.rounds} --output {output} 2>&1 | tee {log}"


# Gather every table of the scale; based on the published ones where results_from says so.
rule collect_tables:
    input:
        cells=[table for name in TRAINED for table in cell_tables(name)],
        evaluations=expand(
            f"{RESULTS}/evaluations/{{track}}.parquet",
            track=[track for track in TRACKS if trained(track)],
        ),
        rates=rate_files(*TRAINED),
        config=f"{RESULTS}/specs/config.json",
        code=TABLE_SOURCES,
        others=[path for _, path in COLLECTED],
        published=PUBLISHED_FILES,
    output:
        GATHERED,
    log:
        f"{RESULTS}/logs/collect_tables.log",
    params:
        cells=[f"--cell {RESULTS}/cells/{name}" for name in TRAINED],
        evaluations=lambda wildcards, input: [
            f"--evaluation {path}" for path in input.evaluations
        ],
        rates=lambda wildcards, input: [f"--rates {path}" for path in input.rates],
        others=[f"--other {name}={path}" for name, path in COLLECTED],
        published=f"--published {PUBLISHED}" if PUBLISHED_FILES else "",
        output=f"{RESULTS}/tables",
    message:
        "Collecting tables"
    shell:
        "lowrank tables --config {input.config} {params.cells} {params.evaluations} {params.rates}"
        " {params.others} {params.published} --output {params.output} 2>&1 | tee {log}"


# Judge the paper's claims by the ledger's margins.
rule judge_claims:
    input:
        tables=GATHERED,
        ledger="config/claims.yaml",
        config=f"{RESULTS}/specs/config.json",
        code=multiext("src/lowrank/analysis/", "claims.py", "ledger.py", "matching.py"),
    output:
        f"{RESULTS}/tables/claims.parquet",
    log:
        f"{RESULTS}/logs/judge_claims.log",
    params:
        tables=f"{RESULTS}/tables",
    message:
        "Judging the claims"
    shell:
        "lowrank claims --config {input.config} --ledger {input.ledger} --tables {params.tables}"
        " --output {output} 2>&1 | tee {log}"


# Write published/<scale>: the tables, thinned, with a SHA-256 manifest. Asked for by name only.
rule publish:
    input:
        tables=TABLES,
        config=f"{RESULTS}/specs/config.json",
        ledger="config/claims.yaml",
    log:
        f"{RESULTS}/logs/publish.log",
    params:
        tables=f"{RESULTS}/tables",
        output=f"published/{CONFIG.scale}",
    message:
        "Publishing the tables of {CONFIG.scale}"
    shell:
        "lowrank publish --tables {params.tables} --config {input.config} --ledger {input.ledger}"
        " --output {params.output} 2>&1 | tee {log}"
