output "worker_security_group_id" {
  description = "Security group of everything that runs the worker."
  value       = aws_security_group.workers.id
}

output "subnet_ids" {
  description = "Subnets of the workers."
  value       = var.subnet_ids
}
