# How many tasks: by the work of each wanted task, so that a message waits no longer than latency_goal_s. docs/autoscaling.md
# has a day of it, simulated, beside other measures.
#
# work     messages that wait, are delayed, or are being worked on, and those that come within drain_s at the pace of this
#          minute. Without those in work, the last of a burst would look like an empty queue; without those that come, a
#          service that keeps up would look idle. Either way tasks would be ended and started again in waves.
# tasks    those wanted. By those that run, the same backlog would ask for more tasks each minute until they have booted.
# share    what ECS is to do of it; the rest is left to Batch.
# target   messages that one task does within drain_s.

locals {
  # With all work left to Batch, the last task goes as well.
  min_tasks = var.traffic_share == 100 ? 0 : var.scaling.min_tasks
  drain_s   = coalesce(var.scaling.drain_s, var.scaling.latency_goal_s / 2)
  target    = local.drain_s / var.scaling.seconds_per_message
  ecs_share = (100 - var.traffic_share) / 100

  queue = { QueueName = var.queue_name }
  tasks = { ClusterName = var.cluster_name, ServiceName = aws_ecs_service.worker.name }
  metrics = {
    visible = { namespace = "AWS/SQS", name = "ApproximateNumberOfMessagesVisible", dimensions = local.queue, stat = "Maximum" }
    delayed = { namespace = "AWS/SQS", name = "ApproximateNumberOfMessagesDelayed", dimensions = local.queue, stat = "Maximum" }
    in_work = { namespace = "AWS/SQS", name = "ApproximateNumberOfMessagesNotVisible", dimensions = local.queue, stat = "Maximum" }
    sent    = { namespace = "AWS/SQS", name = "NumberOfMessagesSent", dimensions = local.queue, stat = "Sum" }
    m2      = { namespace = "ECS/ContainerInsights", name = "DesiredTaskCount", dimensions = local.tasks, stat = "Maximum" }
  }
  backlog_metrics = [for id in ["visible", "delayed", "in_work", "sent", "m2"] : merge({ id = id }, local.metrics[id])]
  # Beside its own queue, those of others whose messages the service's tasks answer.
  others = {
    for number, name in var.wake_queue_names :
    "other${number}" => { namespace = "AWS/SQS", name = "ApproximateNumberOfMessagesVisible", dimensions = { QueueName = name }, stat = "Maximum" }
  }
  wake_metrics = concat(
    [for id in ["visible", "delayed", "m2"] : merge({ id = id }, local.metrics[id])],
    [for id, metric in local.others : merge({ id = id }, metric)],
  )
  waiting = join(" + ", [for id in concat(["visible", "delayed"], keys(local.others)) : "FILL(${id}, 0)"])
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
        expression  = "(FILL(visible, 0) + FILL(delayed, 0) + FILL(in_work, 0) + FILL(sent, 0) * ${local.drain_s / 60}) * ${local.ecs_share}"
        return_data = false
      }

      # With no task wanted there is nothing to divide by, and where the service is new no data for m2 either.
      metrics {
        id          = "backlog_per_task"
        label       = "Work of each wanted task"
        expression  = "IF(FILL(m2, 0) > 0, m1 / m2, m1)"
        return_data = true
      }
    }
  }
}
