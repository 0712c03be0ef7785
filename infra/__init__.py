"""What surrounds the worker in AWS: Terraform, the submitter of Batch jobs, deploying, and what it all costs."""
