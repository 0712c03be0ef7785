output "name" {
  description = "Name of the ECS service."
  value       = aws_ecs_service.worker.name
}

output "log_group" {
  description = "Log group of its containers: name and arn."
  value       = { name = aws_cloudwatch_log_group.task.name, arn = aws_cloudwatch_log_group.task.arn }
}

output "task_family" {
  description = "Family of its task definitions."
  value       = aws_ecs_task_definition.worker.family
}
