# New photos become messages by themselves, as `<gallery>/<photo>`. A bucket has one notification configuration: this
# replaces the one that an existing bucket has, so it is off unless asked for.

resource "aws_s3_bucket_notification" "photos" {
  count = var.photo_notifications == null ? 0 : 1

  bucket = local.names["photos"]

  dynamic "queue" {
    for_each = length(var.photo_notifications.prefixes) == 0 ? [null] : var.photo_notifications.prefixes

    content {
      queue_arn     = var.photo_notifications.queue_arn
      events        = ["s3:ObjectCreated:*"]
      filter_prefix = queue.value
    }
  }
}
