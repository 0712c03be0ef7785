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

output "sender_policies" {
  description = <<-TEXT
    By queue (detection, grouping, find): a policy, as JSON, to attach to the roles of those who may send there. IAM
    sees queues and no messages: who may order a run may also edit people, and have photos forgotten.
  TEXT
  value       = { for name, document in data.aws_iam_policy_document.sender : name => document.json }
}

output "events_topic_arn" {
  description = "Topic that is told of events; null without one."
  value       = var.events.enabled ? aws_sns_topic.events[0].arn : null
}

output "events_queue_url" {
  description = "Example of a subscription: a queue that gets every event; null without one."
  value       = local.events_queue ? aws_sqs_queue.events[0].url : null
}
