# Nobody speaks to a queue without TLS. S3 may send to detection where photo_bucket is set, EventBridge's
# rules to theirs where they are: then also to the dead letters, where what a rule could not send goes.

locals {
  all = merge(
    { for name in local.names : name => aws_sqs_queue.work[name] },
    { for name in local.names : "${name}-dead" => aws_sqs_queue.dead[name] },
  )
  # Of EventBridge, and the queue that each sends to.
  rules = [
    for rule in [
      { sid = "PhotoRuleSends", queue = "detection", arn = var.photo_rule_arn },
      { sid = "ExpireRuleSends", queue = "grouping", arn = var.expire_rule_arn },
    ] : rule if rule.arn != null
  ]
}

data "aws_iam_policy_document" "queue" {
  for_each = toset([for pair in setproduct(local.names, ["", "-dead"]) : join("", pair)])

  statement {
    sid       = "DenyWithoutTls"
    effect    = "Deny"
    actions   = ["sqs:*"]
    resources = [local.all[each.key].arn]

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

  dynamic "statement" {
    for_each = each.key == "detection" && var.photo_bucket != null ? [var.photo_bucket] : []

    content {
      sid       = "PhotoBucketSends"
      actions   = ["sqs:SendMessage"]
      resources = [local.all[each.key].arn]

      principals {
        type        = "Service"
        identifiers = ["s3.amazonaws.com"]
      }

      # Bucket names are given away again once a bucket is deleted, hence the account beside the name.
      condition {
        test     = "ArnEquals"
        variable = "aws:SourceArn"
        values   = [statement.value.arn]
      }

      condition {
        test     = "StringEquals"
        variable = "aws:SourceAccount"
        values   = [statement.value.account_id]
      }
    }
  }

  dynamic "statement" {
    for_each = [for rule in local.rules : rule if contains([rule.queue, "${rule.queue}-dead"], each.key)]

    content {
      sid       = statement.value.sid
      actions   = ["sqs:SendMessage"]
      resources = [local.all[each.key].arn]

      principals {
        type        = "Service"
        identifiers = ["events.amazonaws.com"]
      }

      condition {
        test     = "ArnEquals"
        variable = "aws:SourceArn"
        values   = [statement.value.arn]
      }
    }
  }
}

resource "aws_sqs_queue_policy" "queue" {
  for_each = data.aws_iam_policy_document.queue

  queue_url = local.all[each.key].id
  policy    = each.value.json
}
