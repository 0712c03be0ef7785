"""Starts as many Batch jobs as a queue's messages need. Runs in Lambda once a minute, on nothing but its runtime."""
