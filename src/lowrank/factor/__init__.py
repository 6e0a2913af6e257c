"""The method: layers whose weight is a product of two factors, W = U V^T, from the first step.

`layers` holds the factorised modules, `init` and `decay` what the paper varies, `spectrum` what it
measures; `convert` and `truncate` turn dense models into factorised ones, before or after training,
`batch_norm` renews the statistics of one whose weights were replaced, and `flops` counts what either
costs. `svd` and `registry` are what these share.
"""
