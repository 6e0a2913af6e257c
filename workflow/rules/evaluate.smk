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


# What studies measure on trained models, on steps or on data: a rule for the job of each, as its record says. One
# that times steps takes every core, because nothing else may run meanwhile.
for study, job in jobs().items():

    rule:
        name:
            f"measure_{study}"
        input:
            unpack(
                lambda wildcards, study=study: SCALE.measured_on(
                    study, wildcards.track
                )
            ),
        output:
            **{table: f"{RESULTS}/{table}/{{track}}.parquet" for table in job.tables},
        log:
            f"{RESULTS}/logs/measure_{study}/{{track}}.log",
        priority: lambda wildcards, job=job: BEHIND[wildcards.track] if job.arms else 0
        conda:
            "../envs/lowrank.yaml"
        threads: workflow.cores if job.times and not SCALE.config.quick else 1
        resources:
            gpu=min(SCALE.gpus, 1) if job.arms or job.times else 0,
        params:
            **JOB,
            digest=lambda wildcards, study=study: SCALE.experiment.of_study(
                study, wildcards.track
            ),
            study=study,
            rates=f"{RESULTS}/rates",
            output=lambda wildcards, output: output[0].rsplit("/", 2)[0],
        message:
            f"{job.doing} of {{wildcards.track}}"
        shell:
            "OMP_NUM_THREADS=1 lowrank measure {params.study} --config {params.config} --digest {params.digest}"
            " --track {wildcards.track} --rates {params.rates} --output {params.output}"
            " --data {params.data} --cache {params.cache} --device {params.device} {params.ground} 2>&1 | tee {log}"
