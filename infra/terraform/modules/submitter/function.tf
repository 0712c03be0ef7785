# The function that decides, each minute, how many jobs to submit.

locals {
  full_name = "${var.name}-${var.service}-submitter"
}

resource "aws_cloudwatch_log_group" "function" {
  #checkov:skip=CKV_AWS_338:a year by default; log_retention_days lets an environment for trials keep less
  name              = "/aws/lambda/${local.full_name}"
  retention_in_days = var.log_retention_days
  kms_key_id        = var.kms_key_arn
}

resource "aws_lambda_function" "submitter" {
  #checkov:skip=CKV_AWS_117:it speaks to SQS and Batch only, both outside the VPC; inside, it would need two endpoints
  #checkov:skip=CKV_AWS_116:failures go to the on_failure destination below, which keeps the error beside the request
  #checkov:skip=CKV_AWS_272:whoever may replace its code may change this configuration as well, so a signature adds no second pair of eyes
  #checkov:skip=CKV_AWS_50:one call a minute of three requests; its log line holds all that a trace would
  function_name    = local.full_name
  description      = "Submits as many Batch jobs as the backlog of ${var.service} needs"
  role             = aws_iam_role.function.arn
  filename         = var.zip_path
  source_code_hash = filebase64sha256(var.zip_path)
  handler          = "batch_submitter.handler.handle"
  runtime          = "python3.12"
  architectures    = ["arm64"]
  memory_size      = 256
  timeout          = 50 # under the minute after which the next call comes
  kms_key_arn      = var.kms_key_arn

  # Two at once would each count the jobs before the other's are there, and submit them twice.
  reserved_concurrent_executions = 1

  environment {
    variables = {
      QUEUE_URL        = var.queue_url
      JOB_QUEUE        = var.job_queue_arn
      JOB_DEFINITION   = var.job_definition_name
      JOB_NAME         = "${var.name}-${var.service}"
      MESSAGES_PER_JOB = tostring(var.messages_per_job)
      MAX_JOBS         = tostring(var.max_jobs)
      TRAFFIC_SHARE    = tostring(var.traffic_share)
    }
  }

  logging_config {
    log_format = "Text" # the function writes JSON lines of its own
    log_group  = aws_cloudwatch_log_group.function.name
  }

  # The function must not begin before it may write its log.
  depends_on = [aws_iam_role_policy.function]
}

resource "aws_lambda_function_event_invoke_config" "submitter" {
  function_name = aws_lambda_function.submitter.function_name

  # The next minute looks anew, so a late or repeated look is worth nothing.
  maximum_retry_attempts       = 0
  maximum_event_age_in_seconds = 60

  destination_config {
    on_failure {
      destination = aws_sqs_queue.failures.arn
    }
  }
}

resource "aws_sqs_queue" "failures" {
  name                      = "${local.full_name}-failures"
  message_retention_seconds = 1209600
  sqs_managed_sse_enabled   = true
}

data "aws_iam_policy_document" "failures" {
  statement {
    sid       = "OnlyByTls"
    effect    = "Deny"
    actions   = ["sqs:SendMessage", "sqs:ReceiveMessage", "sqs:DeleteMessage"]
    resources = [aws_sqs_queue.failures.arn]

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

resource "aws_sqs_queue_policy" "failures" {
  queue_url = aws_sqs_queue.failures.url
  policy    = data.aws_iam_policy_document.failures.json
}
