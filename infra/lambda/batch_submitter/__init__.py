"""Starts as many Batch jobs as a queue's messages need. Runs in Lambda once a minute, with no package but those of the
runtime."""
