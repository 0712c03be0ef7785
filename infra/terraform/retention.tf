# Once a day, galleries whose retention is over are forgotten, and requests to forget that are late are sent again.
# A gallery without retention days of its own stays, unless RETENTION_DAYS is set for grouping.

resource "aws_cloudwatch_event_rule" "expire" {
  name                = local.expire_rule_name
  description         = "Once a day: forget the galleries whose retention is over"
  schedule_expression = "rate(1 day)"
}

resource "aws_cloudwatch_event_target" "expire" {
  rule      = aws_cloudwatch_event_rule.expire.name
  target_id = "grouping"
  arn       = module.queues.queues.grouping.arn
  input     = jsonencode({ type = "expire" })

  dead_letter_config {
    arn = module.queues.queues.grouping.dead.arn
  }
}
