# The face worker on AWS: two queues, three buckets, and two services that run on ECS, as AWS Batch jobs, or both.
# How to use it: ../README.md. Examples that are meant to be copied: examples/.

data "aws_caller_identity" "current" {}
data "aws_partition" "current" {}
data "aws_region" "current" {}

module "queues" {
  source = "./modules/queues"

  name                 = var.name
  visibility_timeout_s = var.queues.visibility_timeout_s
  max_receive_count    = var.queues.max_receive_count
  retention_s          = var.queues.retention_s
  kms_key_arn          = var.kms_key_arn
  find_enabled         = var.find.enabled
  photo_bucket         = var.photo_notifications.enabled && !local.shared_bucket ? { arn = local.photo_bucket_arn, account_id = local.account } : null
  photo_rule_arn       = var.photo_notifications.enabled && local.shared_bucket ? local.photo_rule_arn : null
  expire_rule_arn      = local.expire_rule_arn
}

module "storage" {
  source = "./modules/storage"

  buckets              = local.buckets
  kms_key_arn          = var.kms_key_arn
  force_destroy        = var.force_destroy
  former_versions_days = var.former_versions_days
  photos_expire_days   = var.photos_expire_days
  find_result_days     = var.find.result_days
  results_prefix       = var.results_prefix
  cdn_enabled          = var.cdn != null
  cdn_distribution_arn = one(module.cdn[*].distribution_arn)
  photo_notifications = var.photo_notifications.enabled ? {
    queue_arn      = module.queues.arn_for_photo_bucket
    prefixes       = var.photo_prefixes
    rule_name      = local.photo_rule_name
    dead_queue_arn = module.queues.queues.detection.dead.arn
  } : null
}

module "registry" {
  source = "./modules/registry"

  name          = var.name
  kms_key_arn   = var.kms_key_arn
  force_destroy = var.force_destroy
}

module "secrets" {
  source = "./modules/secrets"

  name          = var.name
  arns          = var.mongo_secret_arns
  uris          = var.mongo_uris
  uris_version  = var.mongo_uris_version
  kms_key_arn   = var.kms_key_arn
  force_destroy = var.force_destroy
}

module "network" {
  source = "./modules/network"

  name                = var.name
  vpc_id              = var.network.vpc_id
  subnet_ids          = var.network.subnet_ids
  mongo               = var.network.mongo
  s3_gateway_endpoint = var.network.s3_gateway_endpoint
  route_table_ids     = var.network.route_table_ids
  interface_endpoints = var.network.interface_endpoints
}

module "iam" {
  source = "./modules/iam"

  name                 = var.name
  queues               = module.queues.queues
  photo_bucket_names   = concat([local.buckets.photos.name], var.further_photo_buckets)
  photo_prefixes       = var.photo_prefixes
  results_bucket_arn   = module.storage.buckets["results"].arn
  results_prefix       = var.results_prefix
  former_galleries     = var.former_galleries
  models_bucket_arn    = module.storage.buckets["models"].arn
  model_prefix         = var.model_prefix
  secret_arns          = { for service, settings in local.secret_settings : service => values(settings) }
  repository_arns      = [module.registry.repository.arn]
  log_group_arns       = local.container_log_group_arns
  worker_log_group_arn = local.worker_log_group_arn
  ecs_cluster_arn      = var.ecs_enabled ? local.cluster_arn : null
  batch_enabled        = var.batch_enabled
  traces               = var.collector_image != null
  events_arn           = local.events_arn
  find = !var.find.enabled ? null : {
    queue_arn        = module.queues.queues.find.arn
    dead_queue_arn   = module.queues.queues.find.dead.arn
    selfie_buckets   = var.find.selfie_buckets
    reply_queue_arns = [for url in var.find.reply_queue_urls : local.reply_queue_arns[url]]
  }
  kms_key_arns = compact([var.kms_key_arn])
}

module "ecs" {
  source = "./modules/ecs"
  count  = var.ecs_enabled ? 1 : 0

  name                 = var.name
  container_insights   = var.container_insights
  pools                = { for name, pool in var.pools : name => merge(pool, { public_ip = var.network.public_ip }) }
  services             = local.ecs_services
  image                = local.image
  environment          = local.environment
  secrets              = local.secret_settings
  queue_names          = { for service in keys(local.services) : service => module.queues.queues[service].name }
  wake_queue_names     = var.find.enabled ? { detection = [module.queues.queues.find.name] } : {}
  traffic_share        = local.batch_share
  subnet_ids           = module.network.subnet_ids
  security_group_id    = module.network.worker_security_group_id
  instance_profile_arn = module.iam.instance_profile_arns["ecs"]
  execution_role_arns  = module.iam.execution_role_arns
  task_role_arns       = module.iam.task_role_arns
  collector_image      = var.collector_image
  log_retention_days   = var.log_retention_days
  kms_key_arn          = var.kms_key_arn
}
