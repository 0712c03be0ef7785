# Photos become messages by themselves, as `<gallery>/<photo>`: when they are uploaded, when they are deleted, and when
# an archived one is back. A bucket has one notification configuration: this replaces the one that an existing bucket
# has, so it is off unless asked for.
#
# A filter of S3's own can name the keys that are announced, and none that are not. So a bucket that holds the results as
# well tells all to EventBridge, and a rule there leaves the results out: otherwise each crop would be announced as a
# photo. Photos that photos_expire_days deletes are not announced in either way, and their people stay.

locals {
  # By the names that are asked for, since those of buckets to be made are only known afterwards.
  has_results = var.buckets["photos"].name == var.buckets["results"].name
  by_rule     = var.photo_notifications != null && local.has_results
  photo_keys  = try(var.photo_notifications.prefixes, [])
}

resource "aws_s3_bucket_notification" "photos" {
  count = var.photo_notifications == null ? 0 : 1

  bucket      = local.names["photos"]
  eventbridge = local.by_rule

  dynamic "queue" {
    for_each = local.by_rule ? [] : length(local.photo_keys) == 0 ? [null] : local.photo_keys

    content {
      queue_arn     = var.photo_notifications.queue_arn
      events        = ["s3:ObjectCreated:*", "s3:ObjectRemoved:*", "s3:ObjectRestore:Completed"]
      filter_prefix = queue.value
    }
  }
}

resource "aws_cloudwatch_event_rule" "photos" {
  count = local.by_rule ? 1 : 0

  name        = var.photo_notifications.rule_name
  description = "Photos of ${local.names["photos"]} for the detection queue, without the results beside them"

  event_pattern = jsonencode({
    source      = ["aws.s3"]
    detail-type = ["Object Created", "Object Deleted", "Object Restore Completed"]
    detail = {
      bucket = { name = [local.names["photos"]] }
      # Patterns of one field are alternatives, so the results can't be left out of some prefixes: these must not hold
      # any (variable photo_prefixes of the root).
      object = {
        key = concat(
          [for prefix in local.photo_keys : { prefix = prefix }],
          length(local.photo_keys) == 0 ? [{ anything-but = { prefix = var.results_prefix } }] : [],
        )
      }
      reason = [{ anything-but = ["Lifecycle Expiration"] }, { exists = false }]
    }
  })
}

resource "aws_cloudwatch_event_target" "photos" {
  count = local.by_rule ? 1 : 0

  rule      = aws_cloudwatch_event_rule.photos[0].name
  target_id = "detection"
  arn       = var.photo_notifications.queue_arn

  # What could not be sent for a day would be lost otherwise.
  dead_letter_config {
    arn = var.photo_notifications.dead_queue_arn
  }
}
