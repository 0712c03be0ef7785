mock_provider "aws" {
  mock_data "aws_iam_policy_document" {
    defaults = { json = "{}" }
  }
}

variables {
  buckets = {
    photos  = { name = "customers-photos", create = false }
    results = { name = "face-results", create = true }
    models  = { name = "face-models", create = true }
  }
  results_prefix = "face-worker/"
}

run "a_bucket_that_exists_is_only_referred_to" {
  assert {
    condition     = toset(keys(aws_s3_bucket.created)) == toset(["results", "models"])
    error_message = "the photo bucket was to be created"
  }
  assert {
    condition     = !contains(keys(aws_s3_bucket_policy.tls), "photos") && !contains(keys(aws_s3_bucket_lifecycle_configuration.created), "photos")
    error_message = "an existing bucket is changed"
  }
  assert {
    condition     = length(aws_s3_bucket_notification.photos) == 0
    error_message = "notifications are set unasked"
  }
}

run "created_buckets_are_private_versioned_and_tls_only" {
  assert {
    condition = alltrue([
      for block in aws_s3_bucket_public_access_block.created :
      block.block_public_acls && block.block_public_policy && block.ignore_public_acls && block.restrict_public_buckets
    ])
    error_message = "a bucket may become public"
  }
  assert {
    condition     = alltrue([for versioning in aws_s3_bucket_versioning.created : versioning.versioning_configuration[0].status == "Enabled"])
    error_message = "a bucket has no versions"
  }
  assert {
    condition     = toset(keys(aws_s3_bucket_policy.tls)) == toset(["results", "models"])
    error_message = "a bucket has no policy against requests without TLS"
  }
  assert {
    condition     = alltrue([for bucket in aws_s3_bucket.created : !bucket.force_destroy])
    error_message = "a destroy would delete objects unasked"
  }
}

run "photos_go_after_some_days_only_where_asked_for" {
  variables {
    buckets = {
      photos  = { name = "face-photos", create = true }
      results = { name = "face-results", create = true }
      models  = { name = "face-models", create = true }
    }
    photos_expire_days = 30
  }
  assert {
    condition     = contains([for rule in aws_s3_bucket_lifecycle_configuration.created["photos"].rule : rule.id], "photos")
    error_message = "photos stay for ever"
  }
  assert {
    condition     = !contains([for rule in aws_s3_bucket_lifecycle_configuration.created["results"].rule : rule.id], "photos")
    error_message = "results go with the photos"
  }
  assert {
    condition = [
      for rule in aws_s3_bucket_lifecycle_configuration.created["results"].rule : [one(one(rule.filter).tag).value, one(rule.expiration).days, one(rule.noncurrent_version_expiration).noncurrent_days] if rule.id == "finds"
    ] == [["find", 7, 1]]
    error_message = "answers to guests stay, or others' results go with them"
  }
}

run "each_prefix_is_announced_with_uploads_deletions_and_restores" {
  variables {
    photo_notifications = {
      queue_arn      = "arn:aws:sqs:eu-central-1:111122223333:q"
      prefixes       = ["a/", "b/"]
      rule_name      = "face-worker-test-photos"
      dead_queue_arn = "arn:aws:sqs:eu-central-1:111122223333:q-dead"
    }
  }
  assert {
    condition     = [for queue in aws_s3_bucket_notification.photos[0].queue : queue.filter_prefix] == ["a/", "b/"]
    error_message = "not each prefix is announced"
  }
  assert {
    condition     = alltrue([for queue in aws_s3_bucket_notification.photos[0].queue : queue.events == toset(["s3:ObjectCreated:*", "s3:ObjectRemoved:*", "s3:ObjectRestore:Completed"])])
    error_message = "uploads, deletions or restores are not announced"
  }
  assert {
    condition     = !aws_s3_bucket_notification.photos[0].eventbridge && length(aws_cloudwatch_event_rule.photos) + length(aws_cloudwatch_event_target.photos) == 0
    error_message = "a bucket of its own goes by way of EventBridge as well: each photo would be announced twice"
  }
}

run "photos_in_one_bucket_with_the_results_are_announced_by_a_rule_that_leaves_the_results_out" {
  variables {
    buckets = {
      photos  = { name = "customers-photos", create = false }
      results = { name = "customers-photos", create = false }
      models  = { name = "face-models", create = true }
    }
    photo_notifications = {
      queue_arn      = "arn:aws:sqs:eu-central-1:111122223333:q"
      prefixes       = []
      rule_name      = "face-worker-test-photos"
      dead_queue_arn = "arn:aws:sqs:eu-central-1:111122223333:q-dead"
    }
  }
  override_data {
    target = data.aws_s3_bucket.existing
    values = { id = "customers-photos", arn = "arn:aws:s3:::customers-photos" }
  }
  assert {
    condition     = aws_s3_bucket_notification.photos[0].eventbridge && length(aws_s3_bucket_notification.photos[0].queue) == 0
    error_message = "S3 announces photos by itself, and with them the results"
  }
  assert {
    condition     = jsondecode(aws_cloudwatch_event_rule.photos[0].event_pattern).detail.object.key == [{ anything-but = { prefix = "face-worker/" } }]
    error_message = "the results are announced as photos"
  }
  assert {
    condition     = jsondecode(aws_cloudwatch_event_rule.photos[0].event_pattern).detail.bucket.name == ["customers-photos"]
    error_message = "another bucket's photos are announced"
  }
  assert {
    condition     = jsondecode(aws_cloudwatch_event_rule.photos[0].event_pattern)["detail-type"] == ["Object Created", "Object Deleted", "Object Restore Completed"]
    error_message = "uploads, deletions or restores are not announced"
  }
  assert {
    condition = (
      aws_cloudwatch_event_target.photos[0].arn == "arn:aws:sqs:eu-central-1:111122223333:q" &&
      aws_cloudwatch_event_target.photos[0].dead_letter_config[0].arn == "arn:aws:sqs:eu-central-1:111122223333:q-dead"
    )
    error_message = "the rule leads elsewhere, or what it can't send is lost"
  }
}

run "prefixes_of_photos_in_one_bucket_with_the_results_are_the_rules_keys" {
  variables {
    buckets = {
      photos  = { name = "customers-photos", create = false }
      results = { name = "customers-photos", create = false }
      models  = { name = "face-models", create = true }
    }
    photo_notifications = {
      queue_arn      = "arn:aws:sqs:eu-central-1:111122223333:q"
      prefixes       = ["a/", "b/"]
      rule_name      = "face-worker-test-photos"
      dead_queue_arn = "arn:aws:sqs:eu-central-1:111122223333:q-dead"
    }
  }
  override_data {
    target = data.aws_s3_bucket.existing
    values = { id = "customers-photos", arn = "arn:aws:s3:::customers-photos" }
  }
  assert {
    condition     = jsondecode(aws_cloudwatch_event_rule.photos[0].event_pattern).detail.object.key == [{ prefix = "a/" }, { prefix = "b/" }]
    error_message = "other keys are announced"
  }
}

run "a_bucket_missing_from_the_list_is_refused" {
  command = plan
  variables {
    buckets = { photos = { name = "photos", create = true } }
  }
  expect_failures = [var.buckets]
}

run "no_days_at_all_are_refused" {
  command = plan
  variables {
    former_versions_days = 0
    photos_expire_days   = 0
  }
  expect_failures = [var.former_versions_days, var.photos_expire_days]
}

run "cloudfront_reads_what_applications_read_and_nothing_private" {
  variables {
    cdn_enabled          = true
    cdn_distribution_arn = "arn:aws:cloudfront::111122223333:distribution/E1"
  }
  assert {
    condition     = length(data.aws_iam_policy_document.tls["results"].statement) == 2 && length(data.aws_iam_policy_document.tls["models"].statement) == 1
    error_message = "CloudFront may read another bucket, or none"
  }
  assert {
    condition     = alltrue([for resource in data.aws_iam_policy_document.tls["results"].statement[1].resources : !strcontains(resource, "vectors") && !strcontains(resource, "finds") && !endswith(resource, "face-worker/*")])
    error_message = "CloudFront may read vectors or answers to guests"
  }
  assert {
    condition     = one(data.aws_iam_policy_document.tls["results"].statement[1].condition).values == tolist(["arn:aws:cloudfront::111122223333:distribution/E1"])
    error_message = "other distributions may read, too"
  }
}
