# How many tasks: by the backlog of each running task, so that a message waits no longer than latency_goal_s.
#
# backlog  messages that wait, are delayed, or are being worked on. With those in work left out, the last of a burst
#          would look like an empty queue, and idle tasks would be ended and started again in waves.
# share    what ECS is to do of it; the rest is left to Batch.
# target   messages that one task does within the goal: latency_goal_s / seconds_per_message.

locals {
  # With all work left to Batch, the last task goes as well.
  min_tasks = var.traffic_share == 100 ? 0 : var.scaling.min_tasks
  target    = var.scaling.latency_goal_s / var.scaling.seconds_per_message
  ecs_share = (100 - var.traffic_share) / 100

  queue = { QueueName = var.queue_name }
  tasks = { ClusterName = var.cluster_name, ServiceName = aws_ecs_service.worker.name }
  metrics = {
    visible = { namespace = "AWS/SQS", name = "ApproximateNumberOfMessagesVisible", dimensions = local.queue, stat = "Maximum" }
    delayed = { namespace = "AWS/SQS", name = "ApproximateNumberOfMessagesDelayed", dimensions = local.queue, stat = "Maximum" }
    in_work = { namespace = "AWS/SQS", name = "ApproximateNumberOfMessagesNotVisible", dimensions = local.queue, stat = "Maximum" }
    m2      = { namespace = "ECS/ContainerInsights", name = "RunningTaskCount", dimensions = local.tasks, stat = "Average" }
    desired = { namespace = "ECS/ContainerInsights", name = "DesiredTaskCount", dimensions = local.tasks, stat = "Maximum" }
  }
  backlog_metrics = [for id in ["visible", "delayed", "in_work", "m2"] : merge({ id = id }, local.metrics[id])]
  wake_metrics    = [for id in ["visible", "delayed", "desired"] : merge({ id = id }, local.metrics[id])]
}

resource "aws_appautoscaling_target" "tasks" {
  service_namespace  = "ecs"
  scalable_dimension = "ecs:service:DesiredCount"
  resource_id        = "service/${var.cluster_name}/${aws_ecs_service.worker.name}"
  min_capacity       = local.min_tasks
  max_capacity       = var.scaling.max_tasks
}

resource "aws_appautoscaling_policy" "backlog" {
  name               = "${var.name}-backlog"
  policy_type        = "TargetTrackingScaling"
  service_namespace  = aws_appautoscaling_target.tasks.service_namespace
  scalable_dimension = aws_appautoscaling_target.tasks.scalable_dimension
  resource_id        = aws_appautoscaling_target.tasks.resource_id

  target_tracking_scaling_policy_configuration {
    target_value       = local.target
    scale_out_cooldown = 60
    scale_in_cooldown  = 300

    customized_metric_specification {
      dynamic "metrics" {
        for_each = local.backlog_metrics

        content {
          id          = metrics.value.id
          return_data = false

          metric_stat {
            stat = metrics.value.stat

            metric {
              namespace   = metrics.value.namespace
              metric_name = metrics.value.name

              dynamic "dimensions" {
                for_each = metrics.value.dimensions

                content {
                  name  = dimensions.key
                  value = dimensions.value
                }
              }
            }
          }
        }
      }

      metrics {
        id          = "m1"
        label       = "Messages that ECS is to work on"
        expression  = "(FILL(visible, 0) + FILL(delayed, 0) + FILL(in_work, 0)) * ${local.ecs_share}"
        return_data = false
      }

      # With no task running there is nothing to divide by, and no data for m2 either.
      metrics {
        id          = "backlog_per_task"
        label       = "Backlog of each running task"
        expression  = "IF(FILL(m2, 0) > 0, m1 / m2, m1)"
        return_data = true
      }
    }
  }
}
