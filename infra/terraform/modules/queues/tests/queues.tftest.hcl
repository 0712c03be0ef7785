mock_provider "aws" {
  mock_data "aws_iam_policy_document" {
    defaults = { json = "{}" }
  }
  mock_resource "aws_sqs_queue" {
    defaults = { arn = "arn:aws:sqs:eu-central-1:111122223333:q" }
  }
}

variables {
  name = "face-worker-test"
}

run "each_service_has_a_queue_with_dead_letters_behind_it" {
  assert {
    condition     = [for queue in aws_sqs_queue.work : queue.name] == ["face-worker-test-detection", "face-worker-test-grouping"]
    error_message = "the queues are named otherwise"
  }
  assert {
    condition     = [for queue in aws_sqs_queue.dead : queue.name] == ["face-worker-test-detection-dead", "face-worker-test-grouping-dead"]
    error_message = "the dead-letter queues are named otherwise"
  }
  assert {
    condition     = alltrue([for queue in aws_sqs_queue.work : queue.visibility_timeout_seconds == 120 && jsondecode(queue.redrive_policy).maxReceiveCount == 6])
    error_message = "visibility is not 120 s, or a message does not become a dead letter after six receives"
  }
  assert {
    condition     = alltrue([for queue in aws_sqs_queue.dead : queue.message_retention_seconds == 1209600])
    error_message = "dead letters are not kept 14 days"
  }
  assert {
    condition     = alltrue([for queue in aws_sqs_queue.work : queue.sqs_managed_sse_enabled])
    error_message = "messages are not encrypted"
  }
}

run "all_four_queues_refuse_those_who_come_without_tls" {
  assert {
    condition     = length(aws_sqs_queue_policy.queue) == 4
    error_message = "a queue has no policy"
  }
  assert {
    condition = alltrue([
      for policy in data.aws_iam_policy_document.queue : policy.statement[0].effect == "Deny" && one(policy.statement[0].condition).variable == "aws:SecureTransport"
    ])
    error_message = "a queue takes requests without TLS"
  }
  assert {
    condition     = alltrue([for policy in data.aws_iam_policy_document.queue : length(policy.statement) == 1])
    error_message = "somebody outside the account's roles was let in"
  }
}

run "a_key_of_ones_own_takes_the_place_of_sqs_s" {
  variables {
    kms_key_arn = "arn:aws:kms:eu-central-1:111122223333:key/1"
  }
  assert {
    condition     = alltrue([for queue in merge(aws_sqs_queue.work, { d = aws_sqs_queue.dead["detection"] }) : queue.kms_master_key_id == var.kms_key_arn])
    error_message = "the key is not used"
  }
}

run "the_photo_bucket_may_send_to_detection_and_nowhere_else" {
  variables {
    photo_bucket = { arn = "arn:aws:s3:::photos", account_id = "111122223333" }
  }
  assert {
    condition     = data.aws_iam_policy_document.queue["detection"].statement[1].actions == toset(["sqs:SendMessage"])
    error_message = "S3 may not send"
  }
  assert {
    condition     = toset([for condition in data.aws_iam_policy_document.queue["detection"].statement[1].condition : condition.variable]) == toset(["aws:SourceArn", "aws:SourceAccount"])
    error_message = "any bucket may send"
  }
  assert {
    condition     = length(data.aws_iam_policy_document.queue["grouping"].statement) == 1
    error_message = "S3 may send to grouping"
  }
}

run "the_photo_rule_may_send_to_detection_and_to_its_dead_letters_and_nowhere_else" {
  variables {
    photo_rule_arn = "arn:aws:events:eu-central-1:111122223333:rule/photos"
  }
  assert {
    condition = alltrue([
      for name in ["detection", "detection-dead"] :
      one(data.aws_iam_policy_document.queue[name].statement[1].principals).identifiers == toset(["events.amazonaws.com"]) &&
      one(data.aws_iam_policy_document.queue[name].statement[1].condition).values == tolist(["arn:aws:events:eu-central-1:111122223333:rule/photos"])
    ])
    error_message = "the rule may not send, or any rule may"
  }
  assert {
    condition     = alltrue([for name in ["grouping", "grouping-dead"] : length(data.aws_iam_policy_document.queue[name].statement) == 1])
    error_message = "the rule may send to grouping"
  }
}

run "the_expire_rule_may_send_to_grouping_and_to_its_dead_letters_and_nowhere_else" {
  variables {
    expire_rule_arn = "arn:aws:events:eu-central-1:111122223333:rule/expire"
  }
  assert {
    condition = alltrue([
      for name in ["grouping", "grouping-dead"] :
      one(data.aws_iam_policy_document.queue[name].statement[1].condition).values == tolist(["arn:aws:events:eu-central-1:111122223333:rule/expire"])
    ])
    error_message = "the rule may not send, or any rule may"
  }
  assert {
    condition     = alltrue([for name in ["detection", "detection-dead"] : length(data.aws_iam_policy_document.queue[name].statement) == 1])
    error_message = "the rule may send to detection"
  }
}

run "a_visibility_beyond_twelve_hours_is_refused" {
  command = plan
  variables {
    visibility_timeout_s = 43201
  }
  expect_failures = [var.visibility_timeout_s]
}

run "a_single_receive_is_refused" {
  command = plan
  variables {
    max_receive_count = 1
  }
  expect_failures = [var.max_receive_count]
}

run "messages_that_outlive_dead_letters_are_refused" {
  command = plan
  variables {
    retention_s = 1209600
  }
  expect_failures = [var.retention_s]
}

run "guests_have_a_queue_with_dead_letters_where_it_is_asked_for" {
  variables {
    find_enabled = true
  }
  assert {
    condition     = aws_sqs_queue.work["find"].name == "face-worker-test-find" && jsondecode(aws_sqs_queue.work["find"].redrive_policy).maxReceiveCount == 6
    error_message = "there is no queue, or no dead letters"
  }
  assert {
    condition     = length(aws_sqs_queue_policy.queue) == 6
    error_message = "a queue takes requests without TLS"
  }
}
