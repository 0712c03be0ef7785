data "aws_caller_identity" "current" {}

data "aws_iam_policy_document" "lambda_trust" {
  statement {
    actions = ["sts:AssumeRole"]

    principals {
      type        = "Service"
      identifiers = ["lambda.amazonaws.com"]
    }
  }
}

data "aws_iam_policy_document" "function" {
  statement {
    sid       = "SeeTheBacklog"
    actions   = ["sqs:GetQueueAttributes"]
    resources = [var.queue_arn]
  }

  statement {
    sid     = "SubmitJobs"
    actions = ["batch:SubmitJob"]
    # A job submitted by the definition's name alone is checked against the name, one by revision against that.
    resources = [var.job_queue_arn, var.job_definition_arn_prefix, "${var.job_definition_arn_prefix}:*"]
  }

  statement {
    sid     = "CountJobs"
    actions = ["batch:ListJobs"]
    # It can't be limited to a queue: it has no resource types.
    # https://docs.aws.amazon.com/service-authorization/latest/reference/list_awsbatch.html
    resources = ["*"]
  }

  statement {
    sid       = "WriteTheLog"
    actions   = ["logs:CreateLogStream", "logs:PutLogEvents"]
    resources = ["${aws_cloudwatch_log_group.function.arn}:*"]
  }

  statement {
    sid       = "KeepFailures"
    actions   = ["sqs:SendMessage"]
    resources = [aws_sqs_queue.failures.arn]
  }
}

resource "aws_iam_role" "function" {
  name               = local.full_name
  assume_role_policy = data.aws_iam_policy_document.lambda_trust.json
}

resource "aws_iam_role_policy" "function" {
  name   = "submit"
  role   = aws_iam_role.function.id
  policy = data.aws_iam_policy_document.function.json
}

data "aws_iam_policy_document" "scheduler_trust" {
  statement {
    actions = ["sts:AssumeRole"]

    principals {
      type        = "Service"
      identifiers = ["scheduler.amazonaws.com"]
    }

    # Otherwise a schedule of another account could be given this role.
    condition {
      test     = "StringEquals"
      variable = "aws:SourceAccount"
      values   = [data.aws_caller_identity.current.account_id]
    }
  }
}

data "aws_iam_policy_document" "schedule" {
  statement {
    sid       = "CallTheSubmitter"
    actions   = ["lambda:InvokeFunction"]
    resources = [aws_lambda_function.submitter.arn]
  }
}

resource "aws_iam_role" "schedule" {
  name               = "${local.full_name}-schedule"
  assume_role_policy = data.aws_iam_policy_document.scheduler_trust.json
}

resource "aws_iam_role_policy" "schedule" {
  name   = "call"
  role   = aws_iam_role.schedule.id
  policy = data.aws_iam_policy_document.schedule.json
}
