output "queues" {
  description = "By service: name, url and arn of its queue and, in `dead`, of its dead-letter queue."
  value       = module.queues.queues
}

output "buckets" {
  description = "By what they are for (photos, results, models): name and arn."
  value       = module.storage.buckets
}

output "repository_url" {
  description = "Where `make push` pushes to."
  value       = module.registry.repository.url
}

output "image" {
  description = "Image that the task and job definitions name."
  value       = local.image
}

output "cluster_name" {
  description = "ECS cluster; null without ECS."
  value       = var.ecs_enabled ? module.ecs[0].cluster.name : null
}

output "ecs_services" {
  description = "Name of each ECS service; empty without ECS."
  value       = var.ecs_enabled ? module.ecs[0].service_names : {}
}

output "worker_environment" {
  description = "The settings that each service runs with, but for its secrets; enough to run one anywhere."
  value       = local.environment
}
