locals {
  names = merge(
    { for role, bucket in aws_s3_bucket.created : role => bucket.id },
    { for role, bucket in data.aws_s3_bucket.existing : role => bucket.id },
  )
}

output "buckets" {
  description = "By role (photos, results, models): name and arn."
  value = merge(
    { for role, bucket in aws_s3_bucket.created : role => { name = bucket.id, arn = bucket.arn } },
    { for role, bucket in data.aws_s3_bucket.existing : role => { name = bucket.id, arn = bucket.arn } },
  )
}
