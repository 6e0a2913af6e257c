"""What an experiment is: sections of the configuration, cells and their expansion."""
