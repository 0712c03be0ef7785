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

  # A rule's prefix can't have the gallery in its middle, so answers to guests are known by a tag: app/detection/find.py.
  # Who was found is nobody's business once the answer has expired, so a former version goes the day after.
  dynamic "rule" {
    for_each = each.key == "results" ? [var.find_result_days] : []

    content {
      id     = "finds"
      status = "Enabled"

      filter {
        tag {
          key   = "kind"
          value = "find"
        }
      }

      expiration {
        days = rule.value
      }

      noncurrent_version_expiration {
        noncurrent_days = 1
      }
    }
  }

  # Rules on former versions are accepted only once there are versions.
  depends_on = [aws_s3_bucket_versioning.created]
}
