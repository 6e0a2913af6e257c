# `snakemake --cores all figures` works from here; the workflow itself is in workflow/Snakefile.
include: "workflow/Snakefile"
