resource "aws_autoscaling_group" "machines" {
  name                = var.name
  min_size            = var.min_instances
  max_size            = var.max_instances
  vpc_zone_identifier = var.subnet_ids
  # Managed termination protection, below, needs it: ECS then chooses which machine ends, one without tasks.
  protect_from_scale_in = true
  # So that a destroy may end machines which are protected.
  force_delete = true
  # A rebalance recommendation often comes to nothing, and the two minutes' notice is enough for a worker that gives
  # its messages back: machines are not replaced on a suspicion.
  capacity_rebalance        = false
  health_check_grace_period = 300
  default_instance_warmup   = 120
  # Two weeks, so that machines that are always there come to have the AMI that was applied last.
  max_instance_lifetime = 1209600
  metrics_granularity   = "1Minute"
  enabled_metrics       = ["GroupDesiredCapacity", "GroupInServiceInstances", "GroupPendingInstances"]

  mixed_instances_policy {
    launch_template {
      launch_template_specification {
        launch_template_id = aws_launch_template.machine.id
        version            = aws_launch_template.machine.latest_version
      }

      dynamic "override" {
        for_each = var.instance_types

        content {
          instance_type = override.value
        }
      }
    }

    instances_distribution {
      on_demand_base_capacity                  = var.on_demand.base
      on_demand_percentage_above_base_capacity = var.on_demand.percent_above_base
      on_demand_allocation_strategy            = "prioritized"
      # The pools least likely to be interrupted, the cheapest among them. No maximum price: it saves nothing, for
      # Spot never costs more than On-Demand, and loses machines when prices move.
      spot_allocation_strategy = "price-capacity-optimized"
    }
  }

  # ECS sets the desired number; the tag is what ECS itself puts on the group.
  lifecycle {
    ignore_changes = [desired_capacity]
  }

  tag {
    key                 = "AmazonECSManaged"
    value               = "true"
    propagate_at_launch = true
  }

  tag {
    key                 = "Name"
    value               = var.name
    propagate_at_launch = true
  }
}

resource "aws_ecs_capacity_provider" "machines" {
  name = var.name

  auto_scaling_group_provider {
    auto_scaling_group_arn         = aws_autoscaling_group.machines.arn
    managed_termination_protection = "ENABLED"
    # A machine that is to end is drained first, whoever ends it: its tasks get SIGTERM, and finish.
    managed_draining = "ENABLED"

    managed_scaling {
      status = "ENABLED"
      # All machines full: none stands idle, and with no task there is no machine.
      target_capacity           = 100
      minimum_scaling_step_size = 1
      maximum_scaling_step_size = min(var.max_instances, 100)
      instance_warmup_period    = 120
    }
  }
}
