# Read the test set, once for every run of a track.
rule evaluate_track:
    input:
        cells=lambda wildcards: SCALE.runs(wildcards.track),
        rates=lambda wildcards: SCALE.trained_rates(wildcards.track),
    output:
        f"{RESULTS}/evaluations/{{track}}.parquet",
    log:
        f"{RESULTS}/logs/evaluate_track/{{track}}.log",
    priority: lambda wildcards: BEHIND[wildcards.track]
    conda:
        "../envs/lowrank.yaml"
    resources:
        gpu=min(SCALE.gpus, 1),
    params:
        **JOB,
        digest=lambda wildcards: SCALE.experiment.of_evaluate(wildcards.track),
        rates=f"{RESULTS}/rates",
    message:
        "Evaluating {wildcards.track}"
    shell:
        "lowrank evaluate --config {params.config} --digest {params.digest}"
        " --track {wildcards.track} --rates {params.rates} --output {output}"
        " --data {params.data} --cache {params.cache} --device {params.device} {params.ground} 2>&1 | tee {log}"


# Losses on the lines from the dense solution to low-rank ones.
rule interpolate:
    input:
        unpack(lambda wildcards: SCALE.read_by("interpolation", wildcards.track)),
    output:
        points=f"{RESULTS}/interpolation/{{track}}.parquet",
        summary=f"{RESULTS}/barriers/{{track}}.parquet",
    log:
        f"{RESULTS}/logs/interpolate/{{track}}.log",
    priority: lambda wildcards: BEHIND[wildcards.track]
    conda:
        "../envs/lowrank.yaml"
    resources:
        gpu=min(SCALE.gpus, 1),
    params:
        **JOB,
        digest=lambda wildcards: SCALE.experiment.of_interpolate(wildcards.track),
        rates=f"{RESULTS}/rates",
    message:
        "Interpolating between solutions of {wildcards.track}"
    shell:
        "lowrank interpolate --config {params.config} --digest {params.digest}"
        " --track {wildcards.track} --rates {params.rates}"
        " --points {output.points} --summary {output.summary}"
        " --data {params.data} --cache {params.cache} --device {params.device} {params.ground} 2>&1 | tee {log}"


# Truncate the trained dense models.
rule truncate_posthoc:
    input:
        unpack(lambda wildcards: SCALE.read_by("posthoc", wildcards.track)),
    output:
        f"{RESULTS}/posthoc/{{track}}.parquet",
    log:
        f"{RESULTS}/logs/truncate_posthoc/{{track}}.log",
    priority: lambda wildcards: BEHIND[wildcards.track]
    conda:
        "../envs/lowrank.yaml"
    resources:
        gpu=min(SCALE.gpus, 1),
    params:
        **JOB,
        digest=lambda wildcards: SCALE.experiment.of_posthoc(wildcards.track),
        rates=f"{RESULTS}/rates",
    message:
        "Truncating the dense models of {wildcards.track}"
    shell:
        "lowrank posthoc --config {params.config} --digest {params.digest}"
        " --track {wildcards.track} --rates {params.rates} --output {output}"
        " --data {params.data} --cache {params.cache} --device {params.device} {params.ground} 2>&1 | tee {log}"


# Unigram and bigram models: the bar for a language model.
rule measure_baselines:
    input:
        data=lambda wildcards: SCALE.prepared(wildcards.track),
    output:
        f"{RESULTS}/baselines/{{track}}.parquet",
    log:
        f"{RESULTS}/logs/measure_baselines/{{track}}.log",
    conda:
        "../envs/lowrank.yaml"
    params:
        config=SCALE.config_file,
        digest=lambda wildcards: SCALE.experiment.of_baselines(wildcards.track),
    message:
        "Measuring n-gram baselines of {wildcards.track}"
    shell:
        "lowrank baselines --config {params.config} --digest {params.digest}"
        " --track {wildcards.track} --data $(dirname {input.data}) --output {output} 2>&1 | tee {log}"


# Time training steps, dense and factorised taking turns. It waits until all is trained and takes every
# core, because nothing else may run meanwhile.
rule measure_speed:
    input:
        timed=lambda wildcards: SCALE.timed(wildcards.track),
        trained=lambda wildcards: SCALE.trained_before_timing(wildcards.track),
    output:
        f"{RESULTS}/speed/{{track}}.parquet",
    log:
        f"{RESULTS}/logs/measure_speed/{{track}}.log",
    conda:
        "../envs/lowrank.yaml"
    threads: workflow.cores if SCALE.measured else 1
    resources:
        gpu=min(SCALE.gpus, 1),
    params:
        **JOB,
        digest=lambda wildcards: SCALE.experiment.of_speed(wildcards.track),
        rounds=5 if SCALE.measured else 2,
    message:
        "Timing training steps of {wildcards.track}"
    shell:
        "OMP_NUM_THREADS=1 lowrank speed --config {params.config} --digest {params.digest}"
        " --track {wildcards.track} --rounds {params.rounds}"
        " --data {params.data} --device {params.device} {params.ground}"
        " --output {output} 2>&1 | tee {log}"
