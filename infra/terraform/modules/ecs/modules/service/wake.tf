# The first task. Target tracking alone leaves a small backlog lying for ever: with no task running, 50 messages below a
# target of 100 are "below target", which asks for fewer tasks, not more. So one message and no wanted task is an alarm
# of its own, that adds one; from then on the backlog decides, and in-work messages keep the task until they are done.
#
# It looks at wanted, not at running tasks: while a machine boots for three minutes, it must not add one each minute.

locals {
  wakes = local.min_tasks == 0 && var.traffic_share < 100 ? 1 : 0
}

resource "aws_appautoscaling_policy" "wake" {
  count = local.wakes

  name               = "${var.name}-wake"
  policy_type        = "StepScaling"
  service_namespace  = aws_appautoscaling_target.tasks.service_namespace
  scalable_dimension = aws_appautoscaling_target.tasks.scalable_dimension
  resource_id        = aws_appautoscaling_target.tasks.resource_id

  # Adding, and never "exactly one": where the count of wanted tasks comes late, that would end all but one.
  step_scaling_policy_configuration {
    adjustment_type         = "ChangeInCapacity"
    cooldown                = 60
    metric_aggregation_type = "Maximum"

    step_adjustment {
      metric_interval_lower_bound = 0
      scaling_adjustment          = 1
    }
  }
}

resource "aws_cloudwatch_metric_alarm" "wake" {
  count = local.wakes

  alarm_name          = "${var.name}-wake"
  alarm_description   = "Messages wait for ${var.service_type} and no task is wanted: starts the first. Not a fault."
  comparison_operator = "GreaterThanOrEqualToThreshold"
  threshold           = 1
  evaluation_periods  = 1
  treat_missing_data  = "notBreaching"
  alarm_actions       = [aws_appautoscaling_policy.wake[0].arn]

  dynamic "metric_query" {
    for_each = local.wake_metrics

    content {
      id          = metric_query.value.id
      return_data = false

      metric {
        namespace   = metric_query.value.namespace
        metric_name = metric_query.value.name
        dimensions  = metric_query.value.dimensions
        stat        = metric_query.value.stat
        period      = 60
      }
    }
  }

  metric_query {
    id          = "asleep"
    label       = "Messages wait, and no task is wanted"
    expression  = "IF(FILL(m2, 0) < 1 AND (${local.waiting}) > 0, 1, 0)"
    return_data = true
  }
}
