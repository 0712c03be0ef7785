mock_provider "aws" {}

variables {
  name               = "face-worker-test"
  bucket_domain_name = "results.s3.eu-central-1.amazonaws.com"
  results_prefix     = "face-worker/"
  public_key_pem     = "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"
}

run "nothing_is_served_without_a_signature" {
  assert {
    condition     = length(aws_cloudfront_distribution.results.default_cache_behavior[0].trusted_key_groups) == 1
    error_message = "the default behaviour is open to everybody"
  }
  assert {
    condition     = alltrue([for behavior in aws_cloudfront_distribution.results.ordered_cache_behavior : length(behavior.trusted_key_groups) == 1])
    error_message = "a behaviour is open to everybody"
  }
  assert {
    condition     = aws_cloudfront_origin_access_control.results.signing_behavior == "always"
    error_message = "CloudFront doesn't sign its requests to the bucket"
  }
}

run "what_is_replaced_in_place_is_not_cached" {
  assert {
    condition     = toset([for behavior in aws_cloudfront_distribution.results.ordered_cache_behavior : behavior.path_pattern]) == toset(["face-worker/*/groups.json", "face-worker/*/people.html"])
    error_message = "the index or the page would be served from a cache"
  }
}

run "a_name_of_ones_own_has_its_certificate_and_a_modern_tls" {
  variables {
    aliases         = ["photos.example.com"]
    certificate_arn = "arn:aws:acm:us-east-1:111122223333:certificate/11111111-2222-3333-4444-555555555555"
  }
  assert {
    condition     = output.base_url == "https://photos.example.com/" && aws_cloudfront_distribution.results.viewer_certificate[0].minimum_protocol_version == "TLSv1.2_2021"
    error_message = "the alias is not served, or with an old TLS"
  }
}

run "a_name_without_a_certificate_is_refused" {
  command = plan
  variables {
    aliases = ["photos.example.com"]
  }
  expect_failures = [var.aliases]
}

run "what_is_no_public_key_is_refused" {
  command = plan
  variables {
    public_key_pem = "-----BEGIN RSA PRIVATE KEY-----\nAAAA\n"
  }
  expect_failures = [var.public_key_pem]
}
