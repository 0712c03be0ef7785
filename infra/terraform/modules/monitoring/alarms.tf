# Alarms as data: alarms_queue.tf and alarms_machines.tf say what is watched, this file makes alarms of it. The key of
# an alarm ends in the anchor of its section in docs/runbooks.md.
#
# Missing data (`missing`) is chosen alarm by alarm. It is notBreaching where silence is what an idle system does:
# SQS stops reporting for a queue without traffic, workers scale to zero, and events come only when something happens.
# It is breaching where the metric must always come. That workers went silent while there is work is an alarm of its
# own (no-progress), made of the queue's metrics, which don't depend on the workers.

locals {
  alarms = merge(local.queue_alarms, local.machine_alarms, local.event_alarms)

  plain    = { for key, alarm in local.alarms : key => alarm if alarm.expression == null }
  computed = { for key, alarm in local.alarms : key => alarm if alarm.expression != null }

  link = { for key, alarm in local.alarms : key => "${var.runbook_base_url}#${alarm.runbook}" }
}

resource "aws_cloudwatch_metric_alarm" "plain" {
  for_each = local.plain

  alarm_name          = "${var.name}-${each.key}"
  alarm_description   = "${each.value.says} ${local.link[each.key]}"
  comparison_operator = each.value.below ? "LessThanThreshold" : "GreaterThanOrEqualToThreshold"
  threshold           = each.value.threshold
  namespace           = each.value.metrics.m.namespace
  metric_name         = each.value.metrics.m.name
  dimensions          = each.value.metrics.m.dimensions
  statistic           = each.value.metrics.m.statistic
  period              = each.value.period_s
  evaluation_periods  = each.value.periods
  datapoints_to_alarm = each.value.of_them
  treat_missing_data  = each.value.missing
  alarm_actions       = [aws_sns_topic.alarms.arn]
  ok_actions          = each.value.tells_ok ? [aws_sns_topic.alarms.arn] : []
}

resource "aws_cloudwatch_metric_alarm" "computed" {
  for_each = local.computed

  alarm_name          = "${var.name}-${each.key}"
  alarm_description   = "${each.value.says} ${local.link[each.key]}"
  comparison_operator = "GreaterThanOrEqualToThreshold"
  threshold           = each.value.threshold
  evaluation_periods  = each.value.periods
  datapoints_to_alarm = each.value.of_them
  treat_missing_data  = each.value.missing
  alarm_actions       = [aws_sns_topic.alarms.arn]
  ok_actions          = each.value.tells_ok ? [aws_sns_topic.alarms.arn] : []

  metric_query {
    id          = "result"
    label       = each.value.label
    expression  = each.value.expression
    return_data = true
  }

  dynamic "metric_query" {
    for_each = each.value.metrics

    content {
      id = metric_query.key

      metric {
        namespace   = metric_query.value.namespace
        metric_name = metric_query.value.name
        dimensions  = metric_query.value.dimensions
        stat        = metric_query.value.statistic
        period      = each.value.period_s
      }
    }
  }
}
