output "distribution_arn" {
  description = "Whom the results bucket lets read."
  value       = aws_cloudfront_distribution.results.arn
}

output "base_url" {
  description = "RESULTS_BASE_URL: a key of the results bucket follows it."
  value       = "https://${length(var.aliases) > 0 ? var.aliases[0] : aws_cloudfront_distribution.results.domain_name}/"
}

output "key_pair_id" {
  description = "CloudFront-Key-Pair-Id of the cookies that the application signs."
  value       = aws_cloudfront_public_key.cookies.id
}
