# Who may send what: a policy for each queue, to be attached to roles of the application.

data "aws_iam_policy_document" "sender" {
  for_each = toset(concat(["detection", "grouping"], var.find.enabled ? ["find"] : []))

  statement {
    sid       = "Send"
    actions   = ["sqs:SendMessage", "sqs:GetQueueUrl"]
    resources = [module.queues.queues[each.key].arn]
  }

  dynamic "statement" {
    for_each = compact([var.kms_key_arn])

    content {
      sid       = "UseKey"
      actions   = ["kms:Decrypt", "kms:GenerateDataKey"]
      resources = [statement.value]

      condition {
        test     = "StringEquals"
        variable = "kms:ViaService"
        values   = ["sqs.${local.region}.amazonaws.com"]
      }
    }
  }
}
