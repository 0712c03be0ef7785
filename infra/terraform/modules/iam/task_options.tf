# What a task may do only where it is asked for.

data "aws_iam_policy_document" "task_options" {
  # Both services check a face's or photo's model at the start, so both read the weights.
  dynamic "statement" {
    for_each = var.model_prefix == null ? [] : [var.model_prefix]

    content {
      sid       = "ReadWeights"
      actions   = ["s3:GetObject"]
      resources = ["${var.models_bucket_arn}/${statement.value}*"]
    }
  }

  # EVENTS: both services tell of what they have published.
  dynamic "statement" {
    for_each = var.events_arn == null ? [] : [var.events_arn]

    content {
      sid       = "TellEvents"
      actions   = [strcontains(statement.value, ":sns:") ? "sns:Publish" : "events:PutEvents"]
      resources = [statement.value]
    }
  }

  # watchtower, where LOG_GROUP is set: it asks for the group's creation, and goes on where it is there.
  dynamic "statement" {
    for_each = var.worker_log_group_arn == null ? [] : [var.worker_log_group_arn]

    content {
      sid       = "WriteOwnLog"
      actions   = ["logs:CreateLogGroup", "logs:CreateLogStream", "logs:DescribeLogStreams", "logs:PutLogEvents"]
      resources = [statement.value, "${statement.value}:log-stream:*"]
    }
  }

  # X-Ray's writing actions know no resource.
  dynamic "statement" {
    for_each = var.traces ? [true] : []

    content {
      sid       = "SendTraces"
      actions   = ["xray:PutTraceSegments", "xray:PutTelemetryRecords"]
      resources = ["*"]
    }
  }

  dynamic "statement" {
    for_each = var.kms_key_arns

    content {
      sid       = "UseKey${statement.key}"
      actions   = ["kms:Decrypt", "kms:GenerateDataKey"]
      resources = [statement.value]

      condition {
        test     = "StringEquals"
        variable = "kms:ViaService"
        values   = ["s3.${local.region}.amazonaws.com", "sqs.${local.region}.amazonaws.com", "sns.${local.region}.amazonaws.com"]
      }
    }
  }
}
