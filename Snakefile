# Replication of "Exploring Low Rank Training of Deep Neural Networks" (arXiv 2209.13569).
#
#   snakemake --cores all figures                       the default scale, config/laptop.yaml
#   snakemake --cores all figures --config scale=smoke  another scale
#   snakemake --cores all results/laptop/cells/language/spectral-r0.62/runs.parquet   one cell


# What `make report` says first.
report: "workflow/report/workflow.rst"


include: "workflow/rules/common.smk"
include: "workflow/rules/data.smk"
include: "workflow/rules/train.smk"
include: "workflow/rules/evaluate.smk"
include: "workflow/rules/figures.smk"
include: "workflow/rules/paper.smk"


# Every figure, with its table.
rule figures:
    default_target: True
    input:
        FIGURES,
    message:
        "Every figure of {CONFIG.scale}"


# The tables that figures and paper are made from.
rule tables:
    input:
        TABLES,
    message:
        "Every table of {CONFIG.scale}"


# The replication report as PDF, and every figure that it shows.
rule paper:
    input:
        PAPER,
    message:
        "The report of {CONFIG.scale}"


include: "workflow/rules/targets.smk"


# Where the figures are and what they say; through the log, so that it comes after the last job.
onsuccess:
    if (
        not workflow.dag_settings.targets
        or "figures" in workflow.dag_settings.targets
    ):
        logger.info(
            closing(Path(f"{RESULTS}/tables"), Path(f"figures/{CONFIG.scale}"))
        )
