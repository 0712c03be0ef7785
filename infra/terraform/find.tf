# Guests who look for themselves: ../../docs/find.md. Detection reads their queue beside its own, in a process of its own.
# A guest starts detection's first task on ECS, and waits minutes for its machine: where guests come while no photo does,
# detection.scaling.min_tasks should be 1 or more. Their number adds no further task, since a find takes a fraction of a
# second. Batch alone starts no machine for a guest.

variable "find" {
  description = <<-TEXT
    Whether guests may look for themselves by a selfie. selfie_buckets: where selfies lie, from which they are removed
    where a request asks for it; none: in the photo buckets, where they stay. reply_queue_urls: queues that a request may
    name for its answer (ALLOWED_REPLY_QUEUE_URLS); queues of another account must let detection's role send. result_days:
    days for which answers are kept. oldest_s: seconds of waiting after which an alarm is raised.
  TEXT
  type = object({
    enabled          = bool
    selfie_buckets   = optional(list(string), [])
    reply_queue_urls = optional(list(string), [])
    result_days      = optional(number, 7)
    oldest_s         = optional(number, 60)
  })
  default = { enabled = false }

  validation {
    condition     = alltrue([for url in var.find.reply_queue_urls : can(regex("^https://sqs[.][a-z0-9-]+[.]amazonaws[.]com([.]cn)?/[0-9]{12}/[A-Za-z0-9_-]+$", url))])
    error_message = "find.reply_queue_urls must be URLs such as https://sqs.eu-west-1.amazonaws.com/123456789012/name."
  }
}

locals {
  reply_queue_arns = {
    for url in var.find.reply_queue_urls :
    url => "arn:${local.partition}:sqs:${split(".", url)[1]}:${split("/", url)[3]}:${split("/", url)[4]}"
  }

  find_alarms = {
    for name, alarm in {
      oldest-message = { metric = "ApproximateAgeOfOldestMessage", queue = "", threshold = var.find.oldest_s, says = "A guest waits for longer than ${var.find.oldest_s} s." }
      dead-letters   = { metric = "ApproximateNumberOfMessagesVisible", queue = "-dead", threshold = 1, says = "Guests' requests could not be understood, or failed again and again." }
    } : name => alarm if var.find.enabled
  }
}

resource "aws_cloudwatch_metric_alarm" "find" {
  for_each = local.find_alarms

  alarm_name          = "${var.name}-find-${each.key}"
  alarm_description   = "${each.value.says} ${var.runbook_base_url}#${each.key}"
  namespace           = "AWS/SQS"
  metric_name         = each.value.metric
  dimensions          = { QueueName = "${module.queues.queues.find.name}${each.value.queue}" }
  statistic           = "Maximum"
  comparison_operator = "GreaterThanOrEqualToThreshold"
  threshold           = each.value.threshold
  period              = 60
  evaluation_periods  = each.key == "dead-letters" ? 1 : 3
  treat_missing_data  = "notBreaching" # an empty queue is not reported
  alarm_actions       = [module.monitoring.topic_arn]
  ok_actions          = [module.monitoring.topic_arn]
}
