mock_provider "aws" {
  mock_data "aws_iam_policy_document" {
    defaults = { json = "{}" }
  }
  mock_data "aws_region" {
    defaults = { name = "eu-central-1" }
  }
  mock_data "aws_caller_identity" {
    defaults = { account_id = "111122223333" }
  }
  mock_resource "aws_sns_topic" {
    defaults = { arn = "arn:aws:sns:eu-central-1:111122223333:alarms" }
  }
  mock_resource "aws_kms_key" {
    defaults = { arn = "arn:aws:kms:eu-central-1:111122223333:key/11111111-2222-3333-4444-555555555555" }
  }
  mock_resource "aws_cloudwatch_log_group" {
    defaults = { arn = "arn:aws:logs:eu-central-1:111122223333:log-group:events" }
  }
}

variables {
  name             = "face-worker-test"
  environment      = "test"
  runbook_base_url = "https://example.com/runbooks"
  alarm_emails     = ["oncall@example.com"]
  ecs_enabled      = true
  batch_enabled    = true
  ecs_cluster_name = "face-worker-test"
  ecs_cluster_arn  = "arn:aws:ecs:eu-central-1:111122223333:cluster/face-worker-test"
  services = {
    detection = {
      queue_name              = "face-worker-test-detection"
      dead_letter_queue_name  = "face-worker-test-detection-dead"
      gpu                     = true
      latency_goal_s          = 600
      ecs_service_name        = "detection"
      autoscaling_group_name  = "face-worker-test-detection"
      job_queue_arn           = "arn:aws:batch:eu-central-1:111122223333:job-queue/face-worker-test-detection"
      submitter_function_name = "face-worker-test-detection-submitter"
    }
    grouping = {
      queue_name             = "face-worker-test-grouping"
      dead_letter_queue_name = "face-worker-test-grouping-dead"
      ecs_service_name       = "grouping"
    }
  }
}

run "every_alarm_tells_the_topic_and_leads_to_its_runbook" {
  assert {
    condition = alltrue([
      for alarm in concat(values(aws_cloudwatch_metric_alarm.plain), values(aws_cloudwatch_metric_alarm.computed)) :
      alarm.alarm_actions == toset([aws_sns_topic.alarms.arn]) && can(regex(" https://example.com/runbooks#[a-z-]+$", alarm.alarm_description))
    ])
    error_message = "An alarm tells nobody, or does not say what to do."
  }
}

run "each_service_has_the_alarms_of_what_it_is" {
  assert {
    condition = toset(output.alarm_names) == toset([for alarm in [
      "detection-backlog", "detection-dead-letters", "detection-failures", "detection-gpu-idle",
      "detection-gpu-temperature", "detection-memory", "detection-no-progress", "detection-oldest-message",
      "detection-submitter-errors", "detection-submitter-silent", "detection-tasks-missing",
      "grouping-backlog", "grouping-dead-letters", "grouping-failures", "grouping-memory",
      "grouping-no-progress", "grouping-oldest-message", "grouping-tasks-missing",
      "deployment-failed", "gpu-failed", "job-queue-blocked", "jobs-failed", "spot-interruptions", "tasks-cannot-start",
    ] : "face-worker-test-${alarm}"])
    error_message = "An alarm is missing, or watches what is not there."
  }
}

run "bars_follow_the_goals" {
  assert {
    condition = (
      aws_cloudwatch_metric_alarm.computed["detection-backlog"].threshold == 600
      && aws_cloudwatch_metric_alarm.plain["detection-oldest-message"].threshold == 1200
      && aws_cloudwatch_metric_alarm.computed["detection-no-progress"].evaluation_periods == 4
      && aws_cloudwatch_metric_alarm.computed["grouping-no-progress"].evaluation_periods == 12
      && aws_cloudwatch_metric_alarm.plain["detection-memory"].threshold == 0.92
    )
    error_message = "An alarm does not follow from its goal."
  }
}

run "silence_is_a_failure_only_where_something_must_be_heard" {
  assert {
    condition = [
      for alarm in concat(values(aws_cloudwatch_metric_alarm.plain), values(aws_cloudwatch_metric_alarm.computed)) :
      alarm.alarm_name if alarm.treat_missing_data == "breaching"
    ] == ["face-worker-test-detection-submitter-silent"]
    error_message = "An idle system would be reported, or a silent submitter would not."
  }
}

run "the_topic_is_encrypted_by_a_key_that_alarms_may_use" {
  assert {
    condition     = aws_sns_topic.alarms.kms_master_key_id == aws_kms_key.topic.arn && aws_kms_key.topic.enable_key_rotation
    error_message = "The topic is plain, or encrypted by a key that CloudWatch can't use."
  }

  assert {
    condition = anytrue([
      for s in data.aws_iam_policy_document.key.statement :
      toset(s.actions) == toset(["kms:Decrypt", "kms:GenerateDataKey"]) && one(s.principals).identifiers == toset(["cloudwatch.amazonaws.com"])
    ])
    error_message = "CloudWatch could not publish an alarm."
  }
}

run "events_are_those_of_this_system" {
  assert {
    condition = (
      jsondecode(aws_cloudwatch_event_rule.watched["deployment-failed"].event_pattern).resources == [{ prefix = "arn:aws:ecs:eu-central-1:111122223333:service/face-worker-test/" }]
      && jsondecode(aws_cloudwatch_event_rule.watched["jobs-failed"].event_pattern).detail.jobQueue == [var.services.detection.job_queue_arn]
      && length(jsondecode(aws_cloudwatch_event_rule.watched["gpu-failed"].event_pattern).detail["$or"]) == 2
    )
    error_message = "A rule counts what is not this system's, or misses what is."
  }
}

run "the_dashboard_fits_its_page" {
  assert {
    condition = alltrue([
      for widget in jsondecode(aws_cloudwatch_dashboard.page.dashboard_body).widgets : widget.x + widget.width <= 24
    ])
    error_message = "A widget lies outside the page."
  }

  assert {
    condition = length(distinct([
      for widget in jsondecode(aws_cloudwatch_dashboard.page.dashboard_body).widgets : "${widget.x}/${widget.y}"
    ])) == length(jsondecode(aws_cloudwatch_dashboard.page.dashboard_body).widgets)
    error_message = "Two widgets lie on each other."
  }
}

run "without_batch_nothing_watches_batch" {
  variables {
    batch_enabled = false
  }

  assert {
    condition     = length([for name in output.alarm_names : name if can(regex("submitter|job", name))]) == 0
    error_message = "An alarm watches Batch, which is off."
  }

  assert {
    condition     = !strcontains(aws_cloudwatch_event_rule.watched["gpu-failed"].event_pattern, "jobQueue")
    error_message = "A rule watches Batch, which is off."
  }
}

run "without_ecs_nothing_watches_ecs" {
  variables {
    ecs_enabled      = false
    ecs_cluster_name = ""
    ecs_cluster_arn  = ""
  }

  assert {
    condition     = length([for name in output.alarm_names : name if can(regex("task|deployment", name))]) == 0
    error_message = "An alarm watches ECS, which is off."
  }
}

run "an_address_with_an_anchor_is_refused" {
  command = plan
  variables {
    runbook_base_url = "https://example.com/runbooks#here"
  }
  expect_failures = [var.runbook_base_url]
}

run "a_pause_of_seven_minutes_is_refused" {
  command = plan
  variables {
    services = { grouping = merge(var.services.grouping, { silent_minutes = 7 }) }
  }
  expect_failures = [var.services]
}

run "more_than_all_memory_is_refused" {
  command = plan
  variables {
    memory_share = 1
  }
  expect_failures = [var.memory_share]
}
