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

output "results_domain_name" {
  description = "Regional domain name of a created results bucket, an origin of CloudFront; null for one that exists."
  value       = try(aws_s3_bucket.created["results"].bucket_regional_domain_name, null)
}
