# What applications are told: ../../docs/events.md. A topic, who may publish and subscribe there, an alarm, and an example
# of a subscription: a queue that gets every event.

variable "events" {
  description = <<-TEXT
    Whether there is a topic that is told of events; queue: whether a queue is made that is subscribed to it. target_arn:
    a topic or an EventBridge bus that exists, in place of a topic made here.
  TEXT
  type        = object({ enabled = bool, queue = optional(bool, false), target_arn = optional(string) })
  default     = { enabled = false }

  validation {
    condition     = !(var.events.enabled && var.events.target_arn != null)
    error_message = "events.enabled makes a topic, and events.target_arn names one: set one of them."
  }
}

locals {
  # Built from its name, since roles must be there before it.
  events_topic_arn = "arn:${local.partition}:sns:${local.region}:${local.account}:${var.name}-events"
  events_arn       = var.events.enabled ? local.events_topic_arn : var.events.target_arn
  events_queue     = var.events.enabled && var.events.queue
}

resource "aws_sns_topic" "events" {
  count = var.events.enabled ? 1 : 0

  name              = "${var.name}-events"
  kms_master_key_id = coalesce(var.kms_key_arn, "alias/aws/sns")
}

data "aws_iam_policy_document" "events_topic" {
  statement {
    sid       = "AccountSubscribes"
    actions   = ["sns:Subscribe", "sns:Publish", "sns:GetTopicAttributes"]
    resources = [local.events_topic_arn]

    principals {
      type        = "AWS"
      identifiers = ["arn:${local.partition}:iam::${local.account}:root"]
    }
  }

  statement {
    sid       = "OnlyByTls"
    effect    = "Deny"
    actions   = ["sns:Publish"]
    resources = [local.events_topic_arn]

    principals {
      type        = "*"
      identifiers = ["*"]
    }

    condition {
      test     = "Bool"
      variable = "aws:SecureTransport"
      values   = ["false"]
    }
  }
}

resource "aws_sns_topic_policy" "events" {
  count = var.events.enabled ? 1 : 0

  arn    = aws_sns_topic.events[0].arn
  policy = data.aws_iam_policy_document.events_topic.json
}

resource "aws_cloudwatch_metric_alarm" "events" {
  for_each = local.events_arn == null ? toset([]) : toset(keys(local.services))

  alarm_name          = "${var.name}-${each.key}-events"
  alarm_description   = "Events of ${each.key} don't arrive; they are tried again. ${var.runbook_base_url}#events-that-dont-arrive"
  namespace           = var.metrics_namespace
  metric_name         = "EventsFailed"
  dimensions          = { Environment = var.environment, Service = each.key }
  statistic           = "Sum"
  comparison_operator = "GreaterThanOrEqualToThreshold"
  threshold           = 1
  period              = 300
  evaluation_periods  = 3
  treat_missing_data  = "notBreaching" # nothing failed
  alarm_actions       = [module.monitoring.topic_arn]
  ok_actions          = [module.monitoring.topic_arn]
}

resource "aws_sqs_queue" "events" {
  count = local.events_queue ? 1 : 0

  name                      = "${var.name}-events"
  message_retention_seconds = 1209600
  receive_wait_time_seconds = 20
  # SNS may send to a queue with SQS's own key without leave to use a key.
  sqs_managed_sse_enabled = true
}

data "aws_iam_policy_document" "events_queue" {
  count = local.events_queue ? 1 : 0

  statement {
    sid       = "TopicSends"
    actions   = ["sqs:SendMessage"]
    resources = [aws_sqs_queue.events[0].arn]

    principals {
      type        = "Service"
      identifiers = ["sns.amazonaws.com"]
    }

    condition {
      test     = "ArnEquals"
      variable = "aws:SourceArn"
      values   = [local.events_topic_arn]
    }
  }

  statement {
    sid       = "DenyWithoutTls"
    effect    = "Deny"
    actions   = ["sqs:*"]
    resources = [aws_sqs_queue.events[0].arn]

    principals {
      type        = "*"
      identifiers = ["*"]
    }

    condition {
      test     = "Bool"
      variable = "aws:SecureTransport"
      values   = ["false"]
    }
  }
}

resource "aws_sqs_queue_policy" "events" {
  count = local.events_queue ? 1 : 0

  queue_url = aws_sqs_queue.events[0].id
  policy    = data.aws_iam_policy_document.events_queue[0].json
}

resource "aws_sns_topic_subscription" "events" {
  count = local.events_queue ? 1 : 0

  topic_arn            = aws_sns_topic.events[0].arn
  protocol             = "sqs"
  endpoint             = aws_sqs_queue.events[0].arn
  raw_message_delivery = true

  depends_on = [aws_sqs_queue_policy.events]
}
