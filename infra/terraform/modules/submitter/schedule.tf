# EventBridge Scheduler rather than a rule: it has a role of its own instead of a permission on the function, and a
# retry policy.

resource "aws_scheduler_schedule" "tick" {
  name                = local.full_name
  description         = "Looks at the backlog of ${var.service}"
  schedule_expression = var.schedule_expression
  kms_key_arn         = var.kms_key_arn

  flexible_time_window {
    mode = "OFF"
  }

  target {
    arn      = aws_lambda_function.submitter.arn
    role_arn = aws_iam_role.schedule.arn

    # The minute that is meant, whenever the call comes: jobs are named by it, so that none is submitted twice.
    # Not by jsonencode, which would write \u003c for <, and Scheduler would not know its own word again.
    input = "{\"time\": \"<aws.scheduler.scheduled-time>\"}"

    retry_policy {
      maximum_retry_attempts       = 0
      maximum_event_age_in_seconds = 60
    }
  }
}
