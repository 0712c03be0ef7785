# Three buckets: photos (often one that exists), results (crops, previews, groups.json, the people page), models
# (weights of packs). One with create = false is only referred to, and nothing of it is changed.

locals {
  served  = ["groups.json", "groups/*", "people.html", "covers/*", "faces/*", "previews/*"]
  created = { for role, bucket in var.buckets : role => bucket if bucket.create }
}

resource "aws_s3_bucket" "created" {
  for_each = local.created

  #checkov:skip=CKV_AWS_18:who reads what is asked of CloudTrail's data events, for all buckets of an account at once
  #checkov:skip=CKV_AWS_144:photos are the owner's copies, and results can be made anew from them
  #checkov:skip=CKV_AWS_145:encrypted by S3's own key unless kms_key_arn names one
  #checkov:skip=CKV2_AWS_62:only the photo bucket has something to announce, and only where asked for

  bucket        = each.value.name
  force_destroy = var.force_destroy
}

data "aws_s3_bucket" "existing" {
  for_each = { for role, bucket in var.buckets : role => bucket if !bucket.create }

  bucket = each.value.name
}

resource "aws_s3_bucket_public_access_block" "created" {
  for_each = local.created

  bucket                  = aws_s3_bucket.created[each.key].id
  block_public_acls       = true
  block_public_policy     = true
  ignore_public_acls      = true
  restrict_public_buckets = true
}

resource "aws_s3_bucket_ownership_controls" "created" {
  for_each = local.created

  bucket = aws_s3_bucket.created[each.key].id

  rule {
    object_ownership = "BucketOwnerEnforced"
  }
}

resource "aws_s3_bucket_server_side_encryption_configuration" "created" {
  for_each = local.created

  bucket = aws_s3_bucket.created[each.key].id

  rule {
    # With a bucket key S3 asks KMS once for many objects; there are dozens of crops to a photo.
    bucket_key_enabled = var.kms_key_arn != null

    apply_server_side_encryption_by_default {
      sse_algorithm     = var.kms_key_arn == null ? "AES256" : "aws:kms"
      kms_master_key_id = var.kms_key_arn
    }
  }
}

resource "aws_s3_bucket_versioning" "created" {
  for_each = local.created

  bucket = aws_s3_bucket.created[each.key].id

  versioning_configuration {
    status = "Enabled"
  }
}

data "aws_iam_policy_document" "tls" {
  for_each = local.created

  statement {
    sid       = "DenyWithoutTls"
    effect    = "Deny"
    actions   = ["s3:*"]
    resources = [aws_s3_bucket.created[each.key].arn, "${aws_s3_bucket.created[each.key].arn}/*"]

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

  # What applications read, and neither vectors nor answers to guests.
  dynamic "statement" {
    for_each = each.key == "results" && var.cdn_enabled ? [true] : []

    content {
      sid       = "CloudFrontReadsWhatApplicationsRead"
      actions   = ["s3:GetObject"]
      resources = [for path in local.served : "${aws_s3_bucket.created[each.key].arn}/${var.results_prefix}*/${path}"]

      principals {
        type        = "Service"
        identifiers = ["cloudfront.amazonaws.com"]
      }

      condition {
        test     = "StringEquals"
        variable = "aws:SourceArn"
        values   = [var.cdn_distribution_arn]
      }
    }
  }
}

resource "aws_s3_bucket_policy" "tls" {
  for_each = local.created

  bucket = aws_s3_bucket.created[each.key].id
  policy = data.aws_iam_policy_document.tls[each.key].json

  # S3 answers 409 where both are written at once.
  depends_on = [aws_s3_bucket_public_access_block.created]
}
