output "execution_role_arns" {
  description = "Role that ECS and Batch start containers with, by service."
  value       = { for service, role in aws_iam_role.execution : service => role.arn }
}

output "task_role_arns" {
  description = "Role of the worker, by service."
  value       = { for service, role in aws_iam_role.task : service => role.arn }
}

output "instance_profile_arns" {
  description = "Instance profile of the machines, by ecs and batch."
  value       = { for kind, profile in aws_iam_instance_profile.instance : kind => profile.arn }
}

output "policies" {
  description = "Every policy document of these roles, by role name."
  value = merge(
    { for service, policy in aws_iam_role_policy.execution : aws_iam_role.execution[service].name => policy.policy },
    { for service, policy in aws_iam_role_policy.task : aws_iam_role.task[service].name => policy.policy },
    { for kind, policy in aws_iam_role_policy.instance : aws_iam_role.instance[kind].name => policy.policy },
  )
}
