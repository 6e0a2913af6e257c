"""The replication report and the reference pages."""
