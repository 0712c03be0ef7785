# What nobody needs any longer goes by itself: former versions (a gallery's crops are written anew when its photos are
# looked at again), uploads that were never completed, and, where photos_expire_days is set, the photos.

resource "aws_s3_bucket_lifecycle_configuration" "created" {
  for_each = local.created

  bucket = aws_s3_bucket.created[each.key].id

  rule {
    id     = "former-versions"
    status = "Enabled"
    filter {}

    noncurrent_version_expiration {
      noncurrent_days = var.former_versions_days
    }

    # Without this, the mark of a deletion stays for ever once its versions are gone.
    dynamic "expiration" {
      for_each = each.key == "photos" && var.photos_expire_days != null ? [] : [true]

      content {
        expired_object_delete_marker = true
      }
    }
  }

  rule {
    id     = "incomplete-uploads"
    status = "Enabled"
    filter {}

    abort_incomplete_multipart_upload {
      days_after_initiation = 7
    }
  }

  dynamic "rule" {
    for_each = each.key == "photos" && var.photos_expire_days != null ? [var.photos_expire_days] : []

    content {
      id     = "photos"
      status = "Enabled"
      filter {}

      expiration {
        days = rule.value
      }
    }
  }

  # Rules on former versions are accepted only once there are versions.
  depends_on = [aws_s3_bucket_versioning.created]
}
