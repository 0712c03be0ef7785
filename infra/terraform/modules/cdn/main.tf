# The results bucket behind CloudFront: people's files and pictures for browsers, for whoever has signed cookies.
#
# The bucket stays closed to everybody else. CloudFront may read what applications read, and nothing of what is private:
# neither the vectors of people's faces nor the answers to guests (the bucket's policy, in the module storage, names what
# it may read).

resource "aws_cloudfront_origin_access_control" "results" {
  name                              = "${var.name}-results"
  description                       = "CloudFront signs its requests to the results bucket."
  origin_access_control_origin_type = "s3"
  signing_behavior                  = "always"
  signing_protocol                  = "sigv4"
}

# A new key gets a new name, so that the distribution never is without one.
resource "aws_cloudfront_public_key" "cookies" {
  name_prefix = "${var.name}-"
  comment     = "Checks the cookies that the application signs."
  encoded_key = var.public_key_pem

  lifecycle {
    create_before_destroy = true
  }
}

resource "aws_cloudfront_key_group" "cookies" {
  name    = "${var.name}-cookies"
  comment = "Whose cookies are accepted."
  items   = [aws_cloudfront_public_key.cookies.id]
}

resource "aws_cloudfront_cache_policy" "results" {
  name        = "${var.name}-results"
  comment     = "As long as the object says, for an hour where it says nothing."
  min_ttl     = 0
  default_ttl = 3600
  max_ttl     = 31536000

  parameters_in_cache_key_and_forwarded_to_origin {
    enable_accept_encoding_brotli = true
    enable_accept_encoding_gzip   = true

    cookies_config {
      cookie_behavior = "none"
    }

    headers_config {
      header_behavior = "none"
    }

    query_strings_config {
      query_string_behavior = "none"
    }
  }
}

# The index and the page are replaced in place, so they are never served from a cache: what was forgotten must go at once.
data "aws_cloudfront_cache_policy" "none" {
  name = "Managed-CachingDisabled"
}

data "aws_cloudfront_response_headers_policy" "security" {
  name = "Managed-SecurityHeadersPolicy"
}

resource "aws_cloudfront_distribution" "results" {
  #checkov:skip=CKV_AWS_86:who reads what is asked of CloudTrail's data events of the bucket
  #checkov:skip=CKV_AWS_68:only signed cookies open anything here; add a web ACL where requests must be limited
  #checkov:skip=CKV2_AWS_47:there is no server behind it that Log4j could run on
  #checkov:skip=CKV_AWS_310:one bucket holds the results
  #checkov:skip=CKV_AWS_305:it has no page of its own
  #checkov:skip=CKV_AWS_374:guests come from everywhere
  #checkov:skip=CKV_AWS_174:with CloudFront's own name the lowest TLS version can't be chosen
  #checkov:skip=CKV2_AWS_42:a certificate of yours comes with aliases

  comment         = "${var.name}: people and pictures"
  enabled         = true
  is_ipv6_enabled = true
  http_version    = "http2and3"
  price_class     = var.price_class
  aliases         = var.aliases

  origin {
    origin_id                = "results"
    domain_name              = var.bucket_domain_name
    origin_access_control_id = aws_cloudfront_origin_access_control.results.id
  }

  default_cache_behavior {
    target_origin_id           = "results"
    allowed_methods            = ["GET", "HEAD"]
    cached_methods             = ["GET", "HEAD"]
    viewer_protocol_policy     = "https-only"
    compress                   = true
    cache_policy_id            = aws_cloudfront_cache_policy.results.id
    response_headers_policy_id = data.aws_cloudfront_response_headers_policy.security.id
    trusted_key_groups         = [aws_cloudfront_key_group.cookies.id]
  }

  dynamic "ordered_cache_behavior" {
    for_each = ["groups.json", "people.html"]

    content {
      path_pattern               = "${var.results_prefix}*/${ordered_cache_behavior.value}"
      target_origin_id           = "results"
      allowed_methods            = ["GET", "HEAD"]
      cached_methods             = ["GET", "HEAD"]
      viewer_protocol_policy     = "https-only"
      compress                   = true
      cache_policy_id            = data.aws_cloudfront_cache_policy.none.id
      response_headers_policy_id = data.aws_cloudfront_response_headers_policy.security.id
      trusted_key_groups         = [aws_cloudfront_key_group.cookies.id]
    }
  }

  restrictions {
    geo_restriction {
      restriction_type = "none"
    }
  }

  viewer_certificate {
    acm_certificate_arn            = var.certificate_arn
    cloudfront_default_certificate = var.certificate_arn == null
    minimum_protocol_version       = var.certificate_arn == null ? null : "TLSv1.2_2021"
    ssl_support_method             = var.certificate_arn == null ? null : "sni-only"
  }
}
