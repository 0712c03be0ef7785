output "job_queue_arns" {
  description = "Job queue of each service, by service."
  value       = { for service, queue in aws_batch_job_queue.service : service => queue.arn }
}

output "job_queue_names" {
  description = "Name of each service's job queue, by service."
  value       = { for service, queue in aws_batch_job_queue.service : service => queue.name }
}

output "job_definition_names" {
  description = "Name of each service's job definition, by service. A job submitted by name takes the latest revision."
  value       = { for service, definition in aws_batch_job_definition.service : service => definition.name }
}

output "job_definition_arns" {
  description = "ARN of each service's job definition with its revision, by service."
  value       = { for service, definition in aws_batch_job_definition.service : service => definition.arn }
}

output "job_definition_arn_prefixes" {
  description = "ARN of each service's job definition without a revision, by service; what a policy names."
  value       = { for service, definition in aws_batch_job_definition.service : service => definition.arn_prefix }
}

output "compute_environment_arns" {
  description = "Compute environments, by <service>-primary and <service>-secondary."
  value       = { for key, environment in aws_batch_compute_environment.machines : key => environment.arn }
}

output "log_group_names" {
  description = "Log group of each service's jobs, by service."
  value       = { for service, group in aws_cloudwatch_log_group.jobs : service => group.name }
}

output "log_group_arns" {
  description = "ARN of each service's log group, by service."
  value       = { for service, group in aws_cloudwatch_log_group.jobs : service => group.arn }
}
