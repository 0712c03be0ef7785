output "cluster" {
  description = "Name and arn of the cluster."
  value       = { name = aws_ecs_cluster.this.name, arn = aws_ecs_cluster.this.arn }
}

output "service_names" {
  description = "Name of the ECS service, by service."
  value       = { for service, made in module.service : service => made.name }
}

output "autoscaling_group_names" {
  description = "Auto Scaling group of each service's machines, by service."
  value       = { for service, wanted in var.services : service => module.capacity[wanted.pool].autoscaling_group_name }
}

output "log_groups" {
  description = "Log group of each service's containers, by service: name and arn."
  value       = { for service, made in module.service : service => made.log_group }
}
