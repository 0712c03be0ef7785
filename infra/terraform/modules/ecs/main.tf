# The cluster, its machines (a pool of GPU machines, one of CPU machines, or both) and the services on them.

resource "aws_ecs_cluster" "this" {
  name = var.name

  # The scaling policies read DesiredTaskCount, which comes from here.
  setting {
    name  = "containerInsights"
    value = var.container_insights
  }
}

module "capacity" {
  source   = "./modules/capacity"
  for_each = var.pools

  name                 = "${var.name}-${each.key}"
  cluster_name         = aws_ecs_cluster.this.name
  instance_types       = each.value.instance_types
  gpu                  = each.value.gpu
  ami_id               = each.value.ami_id
  min_instances        = each.value.min_instances
  max_instances        = each.value.max_instances
  on_demand            = each.value.on_demand
  root_volume_gib      = each.value.root_volume_gib
  public_ip            = each.value.public_ip
  subnet_ids           = var.subnet_ids
  security_group_id    = var.security_group_id
  instance_profile_arn = var.instance_profile_arn
}

resource "aws_ecs_cluster_capacity_providers" "this" {
  cluster_name       = aws_ecs_cluster.this.name
  capacity_providers = [for pool in values(module.capacity) : pool.capacity_provider]
}

module "service" {
  source   = "./modules/service"
  for_each = var.services

  name                    = "${var.name}-${each.key}"
  service_type            = each.key
  cluster_name            = aws_ecs_cluster.this.name
  cluster_arn             = aws_ecs_cluster.this.arn
  capacity_provider       = module.capacity[each.value.pool].capacity_provider
  image                   = var.image
  task                    = each.value.task
  environment             = var.environment[each.key]
  secrets                 = var.secrets[each.key]
  execution_role_arn      = var.execution_role_arns[each.key]
  task_role_arn           = var.task_role_arns[each.key]
  scaling                 = each.value.scaling
  traffic_share           = var.traffic_share
  queue_name              = var.queue_names[each.key]
  wake_queue_names        = lookup(var.wake_queue_names, each.key, [])
  one_task_an_instance    = each.value.one_task_an_instance
  minimum_healthy_percent = each.value.minimum_healthy_percent
  collector_image         = var.collector_image
  log_retention_days      = var.log_retention_days
  kms_key_arn             = var.kms_key_arn

  # A service is refused while its capacity provider is not yet the cluster's.
  depends_on = [aws_ecs_cluster_capacity_providers.this]
}
