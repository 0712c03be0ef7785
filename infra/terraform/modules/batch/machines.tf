# Compute environments: for each service primary machines (commonly Spot) and secondary ones that take over where the
# primary ones can't be had.

locals {
  # /var/lib/face-worker in the image: where a grouping job leaves its gallery index to the next one on the machine.
  index_dir = "/var/lib/face-worker"
  worker_id = 10001 # the image's user

  machines = merge([
    for name, service in var.services : {
      for rank, machines in { primary = service.primary, secondary = service.secondary } :
      "${name}-${rank}" => merge(machines, { service = name }) if machines != null
    }
  ]...)

  allocation = {
    # Weighs how likely a pool is to be reclaimed against its price. There is no bid: a bid below On-Demand only loses
    # capacity, since the price paid is the market's either way.
    SPOT = "SPOT_PRICE_CAPACITY_OPTIMIZED"
    # Goes on to the next type when one is exhausted, where BEST_FIT waits for it, and can be updated in place.
    EC2 = "BEST_FIT_PROGRESSIVE"
  }
}

resource "aws_launch_template" "instance" {
  for_each = var.services

  #checkov:skip=CKV_AWS_341:a worker in a container asks for Spot notices itself, one hop further than the instance
  name_prefix            = "${var.name}-batch-${each.key}-"
  description            = "Instances of the Batch jobs of ${each.key}"
  update_default_version = true

  metadata_options {
    http_endpoint               = "enabled"
    http_tokens                 = "required"
    http_put_response_hop_limit = 2
  }

  block_device_mappings {
    device_name = "/dev/xvda"

    ebs {
      volume_type           = "gp3"
      volume_size           = each.value.root_volume_gib
      encrypted             = true
      delete_on_termination = true
    }
  }

  user_data = base64encode(templatefile("${path.module}/user_data.mime", {
    index_dir = local.index_dir
    worker_id = local.worker_id
  }))

  lifecycle {
    create_before_destroy = true
  }
}

resource "aws_batch_compute_environment" "machines" {
  for_each = local.machines

  # A prefix, so that a change that can't be made in place builds the new machines before the queue lets the old go.
  compute_environment_name_prefix = "${var.name}-${each.key}-"
  type                            = "MANAGED"
  service_role                    = var.service_role_arn

  compute_resources {
    type                = each.value.purchase
    allocation_strategy = local.allocation[each.value.purchase]
    instance_type       = each.value.instance_types
    instance_role       = var.instance_profile_arn
    min_vcpus           = 0 # an idle night costs nothing
    max_vcpus           = each.value.max_vcpus
    subnets             = var.subnet_ids
    security_group_ids  = var.security_group_ids
    tags                = merge(var.tags, { Name = "${var.name}-batch-${each.key}" })

    ec2_configuration {
      image_type        = coalesce(var.services[each.value.service].image_type, var.services[each.value.service].gpus > 0 ? "ECS_AL2023_NVIDIA" : "ECS_AL2023")
      image_id_override = var.services[each.value.service].image_id
    }

    launch_template {
      launch_template_id = aws_launch_template.instance[each.value.service].id
      # The number and not $Latest, so that a change of the template is seen as a change of the machines.
      version = aws_launch_template.instance[each.value.service].latest_version
    }
  }

  update_policy {
    # A job that is stopped loses nothing but has its photos done again; let it come to the end of the queue.
    terminate_jobs_on_update      = false
    job_execution_timeout_minutes = var.update_timeout_minutes
  }

  lifecycle {
    create_before_destroy = true
    # Batch moves it; an apply must not take running machines away.
    ignore_changes = [compute_resources[0].desired_vcpus]
  }
}
