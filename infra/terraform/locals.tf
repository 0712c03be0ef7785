locals {
  account   = data.aws_caller_identity.current.account_id
  partition = data.aws_partition.current.partition
  region    = data.aws_region.current.name

  # Where only one of the two runs, it gets all of the work.
  batch_share = !var.batch_enabled ? 0 : !var.ecs_enabled ? 100 : var.traffic_share

  # A bucket's name is its own in the whole world, hence the account in it.
  buckets = {
    for role, existing in { photos = var.existing_buckets.photos, results = var.existing_buckets.results, models = var.existing_buckets.models } :
    role => { create = existing == null, name = existing == null ? "${var.name}-${role}-${local.account}" : existing }
  }
  photo_bucket_arn = "arn:${local.partition}:s3:::${local.buckets.photos.name}"
  shared_bucket    = local.buckets.photos.name == local.buckets.results.name
  photo_rule_name  = "${var.name}-photos"
  expire_rule_name = "${var.name}-expire"
  expire_rule_arn  = "arn:${local.partition}:events:${local.region}:${local.account}:rule/${local.expire_rule_name}"
  photo_rule_arn   = "arn:${local.partition}:events:${local.region}:${local.account}:rule/${local.photo_rule_name}"

  image = "${module.registry.repository.url}:${var.image_tag}"

  # Built from names, and not read from what is made, since roles must be there before it.
  cluster_arn = "arn:${local.partition}:ecs:${local.region}:${local.account}:cluster/${var.name}"
  log_arn     = "arn:${local.partition}:logs:${local.region}:${local.account}:log-group"
  container_log_group_arns = [
    for pair in setproduct(compact([var.ecs_enabled ? "ecs" : "", var.batch_enabled ? "batch" : ""]), keys(local.services)) :
    "${local.log_arn}:/${var.name}/${join("/", pair)}"
  ]
  worker_log_group_arn = var.worker_log_group == null ? null : "${local.log_arn}:${var.worker_log_group}"

  services = { detection = var.detection, grouping = var.grouping }
}
