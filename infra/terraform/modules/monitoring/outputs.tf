output "topic_arn" {
  description = "Topic that every alarm goes to."
  value       = aws_sns_topic.alarms.arn
}

output "dashboard_name" {
  description = "Name of the dashboard."
  value       = aws_cloudwatch_dashboard.page.dashboard_name
}

output "alarm_names" {
  description = "Names of all alarms."
  value = sort(concat(
    [for alarm in aws_cloudwatch_metric_alarm.plain : alarm.alarm_name],
    [for alarm in aws_cloudwatch_metric_alarm.computed : alarm.alarm_name],
  ))
}

output "event_log_group_name" {
  description = "Log group of what EventBridge told: interruptions, failed jobs, blocked queues, failed deployments."
  value       = aws_cloudwatch_log_group.events.name
}
