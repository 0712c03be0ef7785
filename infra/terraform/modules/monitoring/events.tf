# What no metric tells: EventBridge counts these events for their alarms (AWS/Events TriggeredRules, by rule) and keeps
# each of them in a log group.

locals {
  job_queue_arns = [for s in values(var.services) : s.job_queue_arn if s.job_queue_arn != ""]

  ecs_events = {
    deployment-failed = {
      source      = ["aws.ecs"]
      detail-type = ["ECS Deployment State Change"]
      detail      = { eventName = ["SERVICE_DEPLOYMENT_FAILED"] }
      resources   = [{ prefix = "${replace(var.ecs_cluster_arn, ":cluster/", ":service/")}/" }]
    }
    tasks-cannot-start = {
      source      = ["aws.ecs"]
      detail-type = ["ECS Service Action"]
      detail      = { eventName = ["SERVICE_TASK_START_IMPAIRED"], clusterArn = [var.ecs_cluster_arn] }
    }
  }

  batch_events = {
    jobs-failed = {
      source      = ["aws.batch"]
      detail-type = ["Batch Job State Change"]
      detail      = { status = ["FAILED"], jobQueue = local.job_queue_arns }
    }
    job-queue-blocked = {
      source      = ["aws.batch"]
      detail-type = ["Batch Job Queue Blocked"]
      detail      = { jobQueue = local.job_queue_arns }
    }
  }

  # The worker's exit code 20, wherever it ran: a restart on the same machine fails again.
  gpu_exits = concat(
    var.ecs_enabled ? [{ clusterArn = [var.ecs_cluster_arn], lastStatus = ["STOPPED"], containers = { exitCode = [20] } }] : [],
    var.batch_enabled ? [{ jobQueue = local.job_queue_arns, status = ["FAILED"], container = { exitCode = [20] } }] : [],
  )

  common_events = {
    # It names an instance and neither cluster nor tags, so this counts all Spot instances of the account and region.
    spot-interruptions = {
      source      = ["aws.ec2"]
      detail-type = ["EC2 Spot Instance Interruption Warning"]
    }
    gpu-failed = {
      source      = ["aws.ecs", "aws.batch"]
      detail-type = ["ECS Task State Change", "Batch Job State Change"]
      detail      = { "$or" = local.gpu_exits }
    }
  }

  # As JSON, for the patterns have different shapes.
  event_patterns = merge(
    { for key, pattern in local.common_events : key => jsonencode(pattern) },
    { for key, pattern in local.ecs_events : key => jsonencode(pattern) if var.ecs_enabled },
    { for key, pattern in local.batch_events : key => jsonencode(pattern) if var.batch_enabled },
  )
}

resource "aws_cloudwatch_event_rule" "watched" {
  for_each = local.event_patterns

  name          = "${var.name}-${each.key}"
  description   = "Counted for the alarm ${var.name}-${each.key}"
  event_pattern = each.value
}

resource "aws_cloudwatch_event_target" "log" {
  for_each = local.event_patterns

  rule      = aws_cloudwatch_event_rule.watched[each.key].name
  target_id = "log"
  arn       = aws_cloudwatch_log_group.events.arn
}

resource "aws_cloudwatch_log_group" "events" {
  #checkov:skip=CKV_AWS_338:a year by default; log_retention_days lets an environment for trials keep less
  name              = "/aws/events/${var.name}"
  retention_in_days = var.log_retention_days
  kms_key_id        = var.kms_key_arn
}

data "aws_iam_policy_document" "events" {
  statement {
    actions   = ["logs:CreateLogStream", "logs:PutLogEvents"]
    resources = ["${aws_cloudwatch_log_group.events.arn}:*"]

    principals {
      type        = "Service"
      identifiers = ["events.amazonaws.com", "delivery.logs.amazonaws.com"]
    }
  }
}

resource "aws_cloudwatch_log_resource_policy" "events" {
  policy_name     = "${var.name}-events"
  policy_document = data.aws_iam_policy_document.events.json
}
