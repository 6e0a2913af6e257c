# What the rules ask Python: which files there are, and what each of them is made from.
from lowrank import warm
from lowrank.experiment.study import jobs
from lowrank.workflow import check_call, closing, ledger_of, open_scale
from lowrank.workflow.first import behind

SCALE = open_scale(workflow, config)
RESULTS = SCALE.results
BEHIND = behind(SCALE.experiment)  # jobs with most work behind them go first
LEDGER = ledger_of(SCALE)


wildcard_constraints:
    track="[a-z][a-z0-9-]*",
    arm="[A-Za-z0-9._-]+",


# What every job is told that touches a model. The cache keeps finished runs and checkpoints: no rule
# declares it, so a failed job does not lose them.
JOB = dict(
    config=SCALE.config_file,
    data=lambda wildcards: SCALE.data(wildcards.track),
    cache=f"{RESULTS}/runs",
    device=SCALE.config.device,
    # What is published changes no result: a function of resources, which Snakemake does not compare.
    ground=lambda wildcards, resources: SCALE.ground,
)
