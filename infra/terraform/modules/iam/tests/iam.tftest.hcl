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
  name = "face-worker-test"
  queues = {
    detection = { arn = "arn:aws:sqs:eu-central-1:111122223333:d", dead = { arn = "arn:aws:sqs:eu-central-1:111122223333:d-dead" } }
    grouping  = { arn = "arn:aws:sqs:eu-central-1:111122223333:g", dead = { arn = "arn:aws:sqs:eu-central-1:111122223333:g-dead" } }
  }
  photo_bucket_names = ["photos"]
  results_bucket_arn = "arn:aws:s3:::results"
  results_prefix     = "face-worker/"
  former_galleries   = false
  models_bucket_arn  = "arn:aws:s3:::models"
  secret_arns = {
    detection = ["arn:aws:secretsmanager:eu-central-1:111122223333:secret:g-abcdef", "arn:aws:secretsmanager:eu-central-1:111122223333:secret:h-abcdef"]
    grouping  = ["arn:aws:secretsmanager:eu-central-1:111122223333:secret:g-abcdef"]
  }
  repository_arns = ["arn:aws:ecr:eu-central-1:111122223333:repository/face-worker-test"]
  log_group_arns  = ["arn:aws:logs:eu-central-1:111122223333:log-group:/face-worker-test/ecs/detection"]
  ecs_cluster_arn = "arn:aws:ecs:eu-central-1:111122223333:cluster/face-worker-test"
}

run "no_action_is_a_pattern" {
  assert {
    condition = alltrue(flatten([
      for document in concat(values(data.aws_iam_policy_document.task), values(data.aws_iam_policy_document.instance), values(data.aws_iam_policy_document.execution)) :
      [for statement in document.statement : [for action in statement.actions : !strcontains(action, "*")]]
    ]))
    error_message = "an action holds *"
  }
}

run "grouping_reads_no_photos_and_detection_only_those_of_its_prefixes" {
  variables {
    photo_prefixes = ["galleries/"]
  }
  assert {
    condition = [
      for statement in data.aws_iam_policy_document.task["detection"].statement : statement.resources if statement.sid == "ReadPhotos"
    ] == [toset(["arn:aws:s3:::photos/galleries/*"])]
    error_message = "detection reads other photos"
  }
  assert {
    condition = [
      for statement in data.aws_iam_policy_document.task["detection"].statement : one(statement.condition).values if statement.sid == "TellMissingPhotos"
    ] == [tolist(["galleries/*"])]
    error_message = "detection lists more than its prefixes"
  }
  assert {
    condition = !anytrue(flatten([
      for statement in data.aws_iam_policy_document.task["grouping"].statement : [for resource in statement.resources : strcontains(resource, "photos")]
    ]))
    error_message = "grouping reads photos"
  }
}

run "each_service_reaches_its_own_results_below_the_prefix_alone" {
  assert {
    condition = {
      for statement in data.aws_iam_policy_document.task["detection"].statement : statement.sid => [statement.actions, statement.resources]
      if anytrue([for resource in statement.resources : startswith(resource, "arn:aws:s3:::results/")])
      } == {
      WritePictures = [toset(["s3:PutObject", "s3:DeleteObject"]), toset(["arn:aws:s3:::results/face-worker/*/faces/*", "arn:aws:s3:::results/face-worker/*/previews/*"])]
      ErasePictures = [toset(["s3:DeleteObjectVersion"]), toset(["arn:aws:s3:::results/face-worker/*/faces/*", "arn:aws:s3:::results/face-worker/*/previews/*"])]
      ReadVectors   = [toset(["s3:GetObject"]), toset(["arn:aws:s3:::results/face-worker/*/people.vectors"])]
      AnswerFinds   = [toset(["s3:GetObject", "s3:PutObject", "s3:PutObjectTagging"]), toset(["arn:aws:s3:::results/face-worker/*/finds/*"])]
    }
    error_message = "detection reaches other results"
  }
  assert {
    condition = {
      for statement in data.aws_iam_policy_document.task["grouping"].statement : statement.sid => [statement.actions, statement.resources]
      if anytrue([for resource in statement.resources : startswith(resource, "arn:aws:s3:::results/")])
      } == {
      ReadCrops      = [toset(["s3:GetObject"]), toset(["arn:aws:s3:::results/face-worker/*/faces/*"])]
      ReplaceFiles   = [toset(["s3:GetObject", "s3:PutObject"]), toset(["arn:aws:s3:::results/face-worker/*/groups.json", "arn:aws:s3:::results/face-worker/*/people.html", "arn:aws:s3:::results/face-worker/*/people.vectors"])]
      WriteCovers    = [toset(["s3:PutObject", "s3:DeleteObject"]), toset(["arn:aws:s3:::results/face-worker/*/covers/*"])]
      WriteParts     = [toset(["s3:GetObject", "s3:PutObject", "s3:DeleteObject"]), toset(["arn:aws:s3:::results/face-worker/*/groups/*"])]
      Forget         = [toset(["s3:DeleteObject", "s3:DeleteObjectVersion"]), toset(["arn:aws:s3:::results/face-worker/*/*"])]
      RewriteCrops   = [toset(["s3:PutObject", "s3:GetObjectVersion"]), toset(["arn:aws:s3:::results/face-worker/*/faces/*"])]
      KeepTombstones = [toset(["s3:PutObject", "s3:GetObjectVersion"]), toset(["arn:aws:s3:::results/face-worker/tombstones/*"])]
    }
    error_message = "grouping reaches other results"
  }
  assert {
    condition = alltrue([
      for document in data.aws_iam_policy_document.task :
      [for statement in document.statement : [statement.actions, one(statement.condition).values] if statement.sid == "ListResults"] == [[toset(["s3:ListBucket", "s3:ListBucketVersions"]), tolist(["face-worker/*"])]]
    ])
    error_message = "a service lists more than the results, or none"
  }
  assert {
    condition     = !anytrue([for statement in data.aws_iam_policy_document.task["detection"].statement : contains(statement.actions, "s3:GetObjectVersion")])
    error_message = "versions are read, which no code of detection does"
  }
}

run "former_galleries_stay_readable_and_removable" {
  variables {
    former_galleries = true
  }
  assert {
    condition = {
      for service, document in data.aws_iam_policy_document.task : service => one([for statement in document.statement : statement.resources if statement.sid == "HandleFormerResults"])
      } == {
      detection = toset(["arn:aws:s3:::results/*/faces/*", "arn:aws:s3:::results/*/previews/*"])
      grouping  = toset(["arn:aws:s3:::results/*/faces/*", "arn:aws:s3:::results/*/groups.json", "arn:aws:s3:::results/*/people.html"])
    }
    error_message = "a former gallery's results are out of reach"
  }
}

run "a_container_reads_the_secrets_of_its_service_alone" {
  assert {
    condition = [
      for statement in data.aws_iam_policy_document.execution["grouping"].statement : statement.resources if statement.sid == "ReadSecrets"
    ] == [toset(["arn:aws:secretsmanager:eu-central-1:111122223333:secret:g-abcdef"])]
    error_message = "grouping's containers start with more secrets than they read"
  }
}

run "ecs_only_makes_no_role_for_batch" {
  assert {
    condition     = keys(aws_iam_role.instance) == ["ecs"]
    error_message = "there are other machine roles than that of ECS"
  }
}

run "batch_only_makes_no_role_for_ecs_and_protects_no_task" {
  variables {
    ecs_cluster_arn = null
    batch_enabled   = true
  }
  assert {
    condition     = keys(aws_iam_role.instance) == ["batch"]
    error_message = "there are other machine roles than that of Batch"
  }
  assert {
    condition = !anytrue([
      for statement in data.aws_iam_policy_document.task["detection"].statement : statement.sid == "ProtectOwnTask"
    ])
    error_message = "jobs may protect tasks"
  }
}

run "what_is_not_asked_for_is_not_allowed" {
  assert {
    condition     = length(data.aws_iam_policy_document.task_options.statement) == 0
    error_message = "weights, logs, traces or keys are allowed unasked"
  }
}

run "each_option_allows_its_own" {
  variables {
    model_prefix         = "packs/"
    worker_log_group_arn = "arn:aws:logs:eu-central-1:111122223333:log-group:workers"
    traces               = true
    kms_key_arns         = ["arn:aws:kms:eu-central-1:111122223333:key/1"]
  }
  assert {
    condition     = [for statement in data.aws_iam_policy_document.task_options.statement : statement.sid] == ["ReadWeights", "WriteOwnLog", "SendTraces", "UseKey0"]
    error_message = "an option has no statement, or there are others"
  }
}

run "patterns_in_names_are_refused" {
  command = plan
  variables {
    photo_bucket_names = ["photos-*"]
    model_prefix       = "*/"
    results_prefix     = "*/"
  }
  expect_failures = [var.photo_bucket_names, var.model_prefix, var.results_prefix]
}

run "detection_alone_reads_guests_requests_and_their_selfies_and_both_tell_events" {
  variables {
    events_arn = "arn:aws:sns:eu-central-1:111122223333:events"
    find = {
      queue_arn        = "arn:aws:sqs:eu-central-1:111122223333:f"
      dead_queue_arn   = "arn:aws:sqs:eu-central-1:111122223333:f-dead"
      selfie_buckets   = ["selfies"]
      reply_queue_arns = ["arn:aws:sqs:eu-central-1:111122223333:answers"]
    }
  }
  assert {
    condition = one([for one in data.aws_iam_policy_document.task["detection"].statement : one.resources if one.sid == "ReceiveMessages"]) == toset([
      "arn:aws:sqs:eu-central-1:111122223333:d", "arn:aws:sqs:eu-central-1:111122223333:f",
    ])
    error_message = "detection may not receive, or more than it should"
  }
  assert {
    condition = alltrue([
      for name in ["answers", "f-dead"] :
      contains(one([for one in data.aws_iam_policy_document.task["detection"].statement : one.resources if one.sid == "SendMessages"]), "arn:aws:sqs:eu-central-1:111122223333:${name}")
    ])
    error_message = "an answer or a dead letter can't be sent"
  }
  assert {
    condition     = one([for one in data.aws_iam_policy_document.task["detection"].statement : one.resources if one.sid == "ReadAndRemoveSelfies"]) == toset(["arn:aws:s3:::selfies/*"])
    error_message = "selfies can't be read"
  }
  assert {
    condition     = length([for one in data.aws_iam_policy_document.task["grouping"].statement : one if one.sid == "ReadAndRemoveSelfies"]) == 0 && !strcontains(jsonencode(data.aws_iam_policy_document.task["grouping"].statement), "answers")
    error_message = "grouping may touch what is the guests'"
  }
  assert {
    condition     = one([for one in data.aws_iam_policy_document.task_options.statement : one.resources if one.sid == "TellEvents"]) == toset(["arn:aws:sns:eu-central-1:111122223333:events"])
    error_message = "events can't be told, or anywhere"
  }
}
