# Find an arm's best learning rate on validation data.
rule sweep_rate:
    input:
        spec=f"{RESULTS}/specs/sweeps/{{track}}/{{arm}}.json",
        version=version("training"),
        data=lambda wildcards: prepared(wildcards.track),
    output:
        f"{RESULTS}/rates/{{track}}/{{arm}}.json",
    log:
        f"{RESULTS}/logs/sweep_rate/{{track}}/{{arm}}.log",
    threads: CONFIG.devices
    resources:
        gpu=GPUS,
    params:
        **JOB,
        keep=kept_steps,
    message:
        "Sweeping the learning rate of {wildcards.track}/{wildcards.arm}"
    shell:
        "{LAUNCH} sweep --parallel {CONFIG.parallel} --spec {input.spec} {params.keep}"
        " --output {output}"
        " --data {params.data} --cache {params.cache} --device {params.device} 2>&1 | tee {log}"


# Train one cell, all its seeds. Finished seeds and checkpoints lie in the cache and are found again.
rule train_cell:
    input:
        spec=f"{RESULTS}/specs/cells/{{track}}/{{arm}}.json",
        version=version("training"),
        data=lambda wildcards: prepared(wildcards.track),
        rates=lambda wildcards: rate_files(f"{wildcards.track}/{wildcards.arm}"),
        trunk=lambda wildcards: trunk_tables(f"{wildcards.track}/{wildcards.arm}"),
    output:
        runs=f"{RESULTS}/cells/{{track}}/{{arm}}/runs.parquet",
        history=f"{RESULTS}/cells/{{track}}/{{arm}}/history.parquet",
        layers=f"{RESULTS}/cells/{{track}}/{{arm}}/layers.parquet",
        spectra=f"{RESULTS}/cells/{{track}}/{{arm}}/spectra.parquet",
    log:
        f"{RESULTS}/logs/train_cell/{{track}}/{{arm}}.log",
    threads: CONFIG.devices
    resources:
        gpu=GPUS,
    params:
        **JOB,
        rates=f"{RESULTS}/rates",
        keep=kept_steps,
    message:
        "Training {wildcards.track}/{wildcards.arm}"
    shell:
        "{LAUNCH} train --parallel {CONFIG.parallel} --spec {input.spec}"
        " --rates {params.rates} {params.keep} --output $(dirname {output.runs}) --data {params.data}"
        " --cache {params.cache} --device {params.device} 2>&1 | tee {log}"
