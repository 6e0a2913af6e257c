"""Low-rank training of deep networks: the method, the models, the study."""
