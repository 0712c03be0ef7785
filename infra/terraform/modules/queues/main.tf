# A queue for each service, one for guests where find_enabled is set, and their dead-letter queues. Messages are encrypted, by SQS's own key or by kms_key_arn.

locals {
  names = toset(concat(["detection", "grouping"], var.find_enabled ? ["find"] : []))
}

resource "aws_sqs_queue" "work" {
  for_each = local.names

  name                       = "${var.name}-${each.key}"
  visibility_timeout_seconds = var.visibility_timeout_s
  message_retention_seconds  = var.retention_s
  receive_wait_time_seconds  = 20
  sqs_managed_sse_enabled    = var.kms_key_arn == null ? true : null
  kms_master_key_id          = var.kms_key_arn
  # A worker asks once for each batch of ten; without reuse every receive would be a request to KMS.
  kms_data_key_reuse_period_seconds = var.kms_key_arn == null ? null : 3600

  redrive_policy = jsonencode({
    deadLetterTargetArn = aws_sqs_queue.dead[each.key].arn
    maxReceiveCount     = var.max_receive_count
  })
}

resource "aws_sqs_queue" "dead" {
  for_each = local.names

  name = "${var.name}-${each.key}-dead"
  # SQS counts a message's age from its first sending, also after a redrive: here it must live longer than there.
  message_retention_seconds = 1209600
  sqs_managed_sse_enabled   = var.kms_key_arn == null ? true : null
  kms_master_key_id         = var.kms_key_arn
}

# Only the queue in front may name a dead-letter queue as its own.
resource "aws_sqs_queue_redrive_allow_policy" "dead" {
  for_each = local.names

  queue_url = aws_sqs_queue.dead[each.key].id
  redrive_allow_policy = jsonencode({
    redrivePermission = "byQueue"
    sourceQueueArns   = [aws_sqs_queue.work[each.key].arn]
  })
}
