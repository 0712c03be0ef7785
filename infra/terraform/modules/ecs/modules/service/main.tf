# One service of the face worker on ECS: its log, its task definition, the service itself. It scales by scaling.tf.

resource "aws_cloudwatch_log_group" "task" {
  #checkov:skip=CKV_AWS_158:encrypted by the service's own key unless kms_key_arn names one
  #checkov:skip=CKV_AWS_338:a year is the default; staging asks for less
  name              = "/${var.cluster_name}/ecs/${var.service_type}"
  retention_in_days = var.log_retention_days
  kms_key_id        = var.kms_key_arn
}

resource "aws_ecs_task_definition" "worker" {
  family                   = var.name
  requires_compatibilities = ["EC2"]
  # Containers reach out over the host's address and are reached by nobody. The other mode, awsvpc, gives each task an
  # address of its own, but never a public one (so it needs a NAT gateway), and no more tasks than a machine has
  # network interfaces.
  network_mode          = "bridge"
  execution_role_arn    = var.execution_role_arn
  task_role_arn         = var.task_role_arn
  container_definitions = jsonencode(local.containers)
  # A revision that a service runs, or would go back to, must stay usable; ECS never forgets one anyway.
  skip_destroy = true

  # Docker gives a new volume the owner that the folder has in the image, which is the worker's user; a folder of the
  # host would be root's. Shared, so that the next task on this machine finds the galleries' index of the last.
  volume {
    name = "index"

    docker_volume_configuration {
      scope         = "shared"
      autoprovision = true
      driver        = "local"
    }
  }
}

resource "aws_ecs_service" "worker" {
  name            = var.name
  cluster         = var.cluster_arn
  task_definition = aws_ecs_task_definition.worker.arn
  desired_count   = local.min_tasks

  deployment_minimum_healthy_percent = local.minimum_healthy_percent
  deployment_maximum_percent         = 200
  enable_ecs_managed_tags            = true
  propagate_tags                     = "SERVICE"
  wait_for_steady_state              = false

  capacity_provider_strategy {
    capacity_provider = var.capacity_provider
    weight            = 1
  }

  # A revision whose tasks don't start or stay healthy is taken back by ECS itself.
  deployment_circuit_breaker {
    enable   = true
    rollback = true
  }

  dynamic "placement_constraints" {
    for_each = var.one_task_an_instance ? [true] : []

    content {
      type = "distinctInstance"
    }
  }

  # Few full machines, and the rest empty so that they end.
  ordered_placement_strategy {
    type  = "binpack"
    field = "memory"
  }

  # desired_count belongs to the scaling policies. task_definition belongs to `make deploy`, which takes the newest
  # revision that Terraform has registered, with its settings, puts the new image in, and waits until it runs.
  lifecycle {
    ignore_changes = [desired_count, task_definition]
  }
}

locals {
  # Nobody waits on a connection to a worker, so stopping one costs time but loses nothing, and it must be possible at
  # once: on a machine that Spot takes back, ECS stops a task only if the share that stays healthy allows it. With 100 %
  # it first starts another elsewhere, which takes longer than the two minutes of notice, and SIGTERM never comes.
  # A single task is 50 % rounded up, so only 0 % frees it. From two tasks on, 50 % keeps half at work in a deployment.
  # 200 % lets replacements start beside those that still finish their messages.
  minimum_healthy_percent = coalesce(var.minimum_healthy_percent, local.min_tasks >= 2 ? 50 : 0)
}
