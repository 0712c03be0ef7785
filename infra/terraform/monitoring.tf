# Dashboard and alarms, each with its runbook.

module "monitoring" {
  source = "./modules/monitoring"

  name               = var.name
  environment        = var.environment
  metrics_namespace  = var.metrics_namespace
  runbook_base_url   = var.runbook_base_url
  alarm_emails       = var.alarm_emails
  ecs_enabled        = var.ecs_enabled
  batch_enabled      = var.batch_enabled
  ecs_cluster_name   = var.ecs_enabled ? module.ecs[0].cluster.name : ""
  ecs_cluster_arn    = var.ecs_enabled ? module.ecs[0].cluster.arn : ""
  log_group_names    = local.log_group_names
  log_retention_days = var.log_retention_days
  kms_key_arn        = var.kms_key_arn
  saved_queries      = !var.unsupported_by_emulators

  services = {
    for name, service in local.services : name => {
      queue_name              = module.queues.queues[name].name
      dead_letter_queue_name  = module.queues.queues[name].dead.name
      gpu                     = service.task.gpus > 0
      latency_goal_s          = service.scaling.latency_goal_s
      ecs_service_name        = var.ecs_enabled ? module.ecs[0].service_names[name] : ""
      autoscaling_group_name  = var.ecs_enabled ? module.ecs[0].autoscaling_group_names[name] : ""
      job_queue_arn           = var.batch_enabled ? module.batch[0].job_queue_arns[name] : ""
      submitter_function_name = var.batch_enabled ? module.submitter[name].function_name : ""
    }
  }
}

locals {
  log_group_names = concat(
    var.ecs_enabled ? [for group in values(module.ecs[0].log_groups) : group.name] : [],
    var.batch_enabled ? values(module.batch[0].log_group_names) : [],
    [for submitter in values(module.submitter) : submitter.log_group_name],
  )
}
