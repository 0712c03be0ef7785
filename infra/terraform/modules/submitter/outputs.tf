output "function_name" {
  description = "Name of the function."
  value       = aws_lambda_function.submitter.function_name
}

output "function_arn" {
  description = "ARN of the function."
  value       = aws_lambda_function.submitter.arn
}

output "role_arn" {
  description = "Role of the function."
  value       = aws_iam_role.function.arn
}

output "schedule_name" {
  description = "Name of the schedule that calls it."
  value       = aws_scheduler_schedule.tick.name
}

output "failures_queue_url" {
  description = "Queue that keeps the failed calls, each with its error."
  value       = aws_sqs_queue.failures.url
}

output "log_group_name" {
  description = "Log group of the function."
  value       = aws_cloudwatch_log_group.function.name
}
