"""What surrounds the worker in AWS: Terraform, the submitter of Batch jobs, and what it all costs."""
