# The switches of the root: what is there with ECS only, Batch only and both, and what is refused.

mock_provider "aws" {
  mock_data "aws_iam_policy_document" {
    defaults = { json = "{}" }
  }
  mock_data "aws_caller_identity" {
    defaults = { account_id = "111122223333" }
  }
  mock_data "aws_partition" {
    defaults = { partition = "aws" }
  }
  mock_data "aws_region" {
    defaults = { name = "eu-central-1" }
  }
}

variables {
  name             = "face-worker-test"
  environment      = "test"
  image_tag        = "0123abc"
  runbook_base_url = "https://example.com/runbooks.md"
  network          = { vpc_id = "vpc-1", subnet_ids = ["subnet-1", "subnet-2"] }
  mongo_secret_arns = {
    gallery_images = "arn:aws:secretsmanager:eu-central-1:111122223333:secret:g-abcdef"
    huemn          = "arn:aws:secretsmanager:eu-central-1:111122223333:secret:h-abcdef"
  }
  submitter_package = "modules/submitter/tests/package.zip"
  pools = {
    gpu = { instance_types = ["g4dn.xlarge", "g4dn.2xlarge"], gpu = true, max_instances = 5 }
    cpu = { instance_types = ["r5.large", "r5a.large"], max_instances = 2 }
  }
  detection = {
    pool    = "gpu"
    task    = { cpu = 3584, memory_mib = 13312, gpus = 1 }
    scaling = { max_tasks = 5, latency_goal_s = 600, seconds_per_message = 0.5 }
    batch   = { messages_per_job = 1000, max_jobs = 5, primary = { instance_types = ["g4dn.xlarge", "g5.xlarge"], max_vcpus = 32 } }
  }
  grouping = {
    pool    = "cpu"
    task    = { cpu = 1024, memory_mib = 8192 }
    scaling = { max_tasks = 2, latency_goal_s = 1800, seconds_per_message = 60 }
    batch   = { messages_per_job = 10, max_jobs = 2, primary = { instance_types = ["r5.large", "r5a.large"], max_vcpus = 16 } }
  }
}

run "ecs_only_has_no_jobs_and_does_all_the_work" {
  command = plan
  assert {
    condition     = length(module.ecs) == 1 && length(module.batch) == 0 && length(module.submitter) == 0
    error_message = "there is no ECS, or there is Batch"
  }
  assert {
    condition     = local.batch_share == 0
    error_message = "work is left to Batch, which is not there"
  }
}

run "batch_only_has_no_cluster_and_does_all_the_work" {
  command = plan
  variables {
    ecs_enabled   = false
    batch_enabled = true
    pools         = {}
  }
  assert {
    condition     = length(module.ecs) == 0 && length(module.batch) == 1 && length(module.submitter) == 2
    error_message = "there is no Batch, or there is ECS"
  }
  assert {
    condition     = local.batch_share == 100
    error_message = "work is left to ECS, which is not there"
  }
  assert {
    condition     = output.cluster_name == null && length(output.ecs_services) == 0
    error_message = "a cluster is spoken of"
  }
}

run "both_share_the_work_as_asked_for" {
  command = plan
  variables {
    batch_enabled = true
    traffic_share = 25
  }
  assert {
    condition     = local.batch_share == 25 && length(module.ecs) == 1 && length(module.submitter) == 2
    error_message = "the share is another"
  }
}

run "settings_of_a_service_win_over_those_of_both" {
  command = plan
  variables {
    worker_environment = { LOG_LEVEL = "DEBUG", PREFILTER = "enforce" }
    grouping = {
      pool        = "cpu"
      environment = { LOG_LEVEL = "WARNING" }
      task        = { cpu = 1024, memory_mib = 8192 }
      scaling     = { max_tasks = 2, latency_goal_s = 1800, seconds_per_message = 60 }
    }
  }
  assert {
    condition     = local.environment["grouping"]["LOG_LEVEL"] == "WARNING" && local.environment["grouping"]["PREFILTER"] == "enforce"
    error_message = "the service's own setting is lost"
  }
  assert {
    condition     = local.environment["detection"]["LOG_LEVEL"] == "DEBUG" && local.environment["detection"]["ENVIRONMENT"] == "test"
    error_message = "a setting of both is lost"
  }
}

run "grouping_gets_nothing_that_only_detection_reads" {
  command = plan
  assert {
    condition     = keys(local.secret_settings["grouping"]) == ["GALLERY_IMAGES_MONGO_URI", "HUEMN_MONGO_URI"]
    error_message = "grouping can't forget, or is handed another secret"
  }
  assert {
    condition     = length(setintersection(keys(local.environment["grouping"]), ["QUEUE_URL", "BUCKET_NAME", "ALLOWED_BUCKETS"])) == 0
    error_message = "grouping is handed what only detection reads"
  }
  assert {
    condition     = keys(local.secret_settings["detection"]) == ["GALLERY_IMAGES_MONGO_URI", "HUEMN_MONGO_URI"]
    error_message = "detection lacks a secret"
  }
}

run "both_services_write_below_the_prefix" {
  command = plan
  variables {
    results_prefix = "faces-of-ours/"
  }
  assert {
    condition     = alltrue([for environment in local.environment : environment["RESULTS_PREFIX"] == "faces-of-ours/"])
    error_message = "a service writes elsewhere"
  }
}

run "the_buckets_own_notification_goes_to_detection" {
  command = plan
  variables {
    photo_notifications = { enabled = true }
  }
  assert {
    condition     = !local.shared_bucket
    error_message = "photos and results are taken for one bucket"
  }
}

run "one_bucket_for_photos_and_results_is_announced_by_a_rule" {
  command = plan
  variables {
    existing_buckets    = { photos = "ours", results = "ours" }
    photo_notifications = { enabled = true }
  }
  assert {
    condition     = local.shared_bucket && local.photo_rule_arn == "arn:aws:events:eu-central-1:111122223333:rule/face-worker-test-photos"
    error_message = "the rule is another"
  }
}

run "photo_prefixes_that_hold_the_results_of_the_same_bucket_are_refused" {
  command = plan
  variables {
    existing_buckets = { photos = "ours", results = "ours" }
    photo_prefixes   = ["face"]
  }
  expect_failures = [var.photo_prefixes]
}

run "a_results_prefix_that_the_worker_would_refuse_is_refused" {
  command = plan
  variables {
    results_prefix = "face-worker"
  }
  expect_failures = [var.results_prefix]
}

run "neither_ecs_nor_batch_is_refused" {
  command = plan
  variables {
    ecs_enabled = false
  }
  expect_failures = [var.ecs_enabled]
}

run "a_share_beyond_all_is_refused" {
  command = plan
  variables {
    batch_enabled = true
    traffic_share = 101
  }
  expect_failures = [var.traffic_share]
}

run "a_share_between_one_and_nothing_is_refused" {
  command = plan
  variables {
    traffic_share = 10
  }
  expect_failures = [var.traffic_share]
}

run "batch_without_its_numbers_is_refused" {
  command = plan
  variables {
    batch_enabled = true
    grouping = {
      pool    = "cpu"
      task    = { cpu = 1024, memory_mib = 8192 }
      scaling = { max_tasks = 2, latency_goal_s = 1800, seconds_per_message = 60 }
    }
  }
  expect_failures = [var.detection]
}

run "a_pool_that_is_not_there_is_refused" {
  command = plan
  variables {
    pools = { cpu = { instance_types = ["r5.large", "r5a.large"], max_instances = 2 } }
  }
  expect_failures = [var.pools]
}

run "a_gpu_task_on_machines_without_one_is_refused" {
  command = plan
  variables {
    pools = {
      gpu = { instance_types = ["c5.2xlarge"], max_instances = 5 }
      cpu = { instance_types = ["r5.large"], max_instances = 2 }
    }
  }
  expect_failures = [var.pools]
}

run "names_and_tags_that_aws_or_a_reader_cannot_take_are_refused" {
  command = plan
  variables {
    name               = "ecs-faces"
    environment        = "Production!"
    image_tag          = "latest"
    log_retention_days = 8
    kms_key_arn        = "arn:aws:kms:eu-central-1:111122223333:alias/mine"
    photo_prefixes     = ["*"]
  }
  expect_failures = [
    var.name, var.environment, var.image_tag, var.log_retention_days, var.kms_key_arn, var.photo_prefixes,
  ]
}

run "cloudfront_in_front_of_the_results_tells_grouping_its_url" {
  command = plan
  variables {
    cdn = {
      public_key_pem  = "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"
      aliases         = ["photos.example.com"]
      certificate_arn = "arn:aws:acm:us-east-1:111122223333:certificate/11111111-2222-3333-4444-555555555555"
    }
  }
  assert {
    condition     = output.worker_environment["grouping"].RESULTS_BASE_URL == "https://photos.example.com/" && !contains(keys(output.worker_environment["detection"]), "RESULTS_BASE_URL")
    error_message = "grouping does not know the URL, or detection does"
  }
}

run "cloudfront_before_a_results_bucket_that_exists_is_refused" {
  command = plan
  variables {
    existing_buckets = { results = "theirs" }
    cdn              = { public_key_pem = "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n" }
  }
  expect_failures = [var.cdn]
}

run "without_finds_and_events_nothing_of_them_is_there" {
  command = plan
  assert {
    condition     = !contains(keys(local.environment.detection), "FIND_QUEUE_URL") && !contains(keys(local.environment.grouping), "EVENTS")
    error_message = "a service is told of what is not there"
  }
  assert {
    condition     = length(aws_sns_topic.events) + length(aws_cloudwatch_metric_alarm.events) + length(aws_cloudwatch_metric_alarm.find) == 0
    error_message = "something is made unasked"
  }
}

run "guests_and_events_have_settings_alarms_and_a_queue" {
  command = plan
  variables {
    find = {
      enabled          = true
      selfie_buckets   = ["selfies"]
      reply_queue_urls = ["https://sqs.eu-central-1.amazonaws.com/111122223333/answers"]
    }
    events = { enabled = true, queue = true }
  }
  assert {
    condition     = local.environment.detection.SELFIE_BUCKETS == "selfies" && local.environment.detection.FIND_RESULT_DAYS == "7"
    error_message = "detection is not told where selfies lie, or how long answers are kept"
  }
  assert {
    condition     = !contains(keys(local.environment.grouping), "SELFIE_BUCKETS")
    error_message = "grouping is told of what it does not read"
  }
  assert {
    condition     = local.reply_queue_arns["https://sqs.eu-central-1.amazonaws.com/111122223333/answers"] == "arn:aws:sqs:eu-central-1:111122223333:answers"
    error_message = "the right to answer is of another queue"
  }
  assert {
    condition     = alltrue([for service in ["detection", "grouping"] : local.environment[service].EVENTS == "arn:aws:sns:eu-central-1:111122223333:face-worker-test-events"])
    error_message = "a service does not tell of events"
  }
  assert {
    condition     = length(aws_cloudwatch_metric_alarm.find) == 2 && length(aws_cloudwatch_metric_alarm.events) == 2 && aws_sns_topic_subscription.events[0].raw_message_delivery
    error_message = "an alarm or the subscription is missing"
  }
  assert {
    condition     = toset(keys(data.aws_iam_policy_document.sender)) == toset(["detection", "grouping", "find"])
    error_message = "a queue has no policy for its senders"
  }
}

run "events_may_go_to_a_bus_that_exists" {
  command = plan
  variables {
    events = { enabled = false, target_arn = "arn:aws:events:eu-central-1:111122223333:event-bus/photos" }
  }
  assert {
    condition     = local.environment.grouping.EVENTS == "arn:aws:events:eu-central-1:111122223333:event-bus/photos" && length(aws_sns_topic.events) == 0
    error_message = "events go elsewhere"
  }
}

run "a_reply_queue_that_is_none_is_refused" {
  command = plan
  variables {
    find = { enabled = true, reply_queue_urls = ["https://example.com/answers"] }
  }
  expect_failures = [var.find]
}
