# The same services as AWS Batch jobs: machines and job definitions, and for each service a function that submits jobs.

module "batch" {
  source = "./modules/batch"
  count  = var.batch_enabled ? 1 : 0

  name                 = var.name
  subnet_ids           = module.network.subnet_ids
  security_group_ids   = [module.network.worker_security_group_id]
  instance_profile_arn = module.iam.instance_profile_arns["batch"]
  service_role_arn     = var.batch_service_role_arn
  log_retention_days   = var.log_retention_days
  kms_key_arn          = var.kms_key_arn
  tags                 = var.tags

  services = {
    for name, service in local.services : name => {
      image              = local.image
      vcpus              = max(1, floor(service.task.cpu / 1024))
      memory_mib         = service.task.memory_mib
      gpus               = service.task.gpus
      shared_memory_mib  = service.task.shared_memory_mib
      tmpfs_mib          = service.task.tmpfs_mib
      job_role_arn       = module.iam.task_role_arns[name]
      execution_role_arn = module.iam.execution_role_arns[name]
      environment        = local.environment[name]
      secrets            = local.secret_settings[name]
      drain_max_s        = service.batch.drain_max_s
      attempt_seconds    = service.batch.attempt_seconds
      primary            = service.batch.primary
      secondary          = service.batch.secondary
    }
  }
}

module "submitter" {
  source   = "./modules/submitter"
  for_each = { for name, service in local.services : name => service if var.batch_enabled }

  name                      = var.name
  service                   = each.key
  zip_path                  = coalesce(var.submitter_package, "${path.module}/../../build/batch_submitter.zip")
  queue_url                 = module.queues.queues[each.key].url
  queue_arn                 = module.queues.queues[each.key].arn
  job_queue_arn             = module.batch[0].job_queue_arns[each.key]
  job_definition_name       = module.batch[0].job_definition_names[each.key]
  job_definition_arn_prefix = module.batch[0].job_definition_arn_prefixes[each.key]
  messages_per_job          = each.value.batch.messages_per_job
  max_jobs                  = each.value.batch.max_jobs
  traffic_share             = local.batch_share
  log_retention_days        = var.log_retention_days
  kms_key_arn               = var.kms_key_arn
}
