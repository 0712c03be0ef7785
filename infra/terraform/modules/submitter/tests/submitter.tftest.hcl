mock_provider "aws" {
  mock_data "aws_iam_policy_document" {
    defaults = { json = "{}" }
  }
  mock_data "aws_caller_identity" {
    defaults = { account_id = "111122223333" }
  }
  mock_resource "aws_lambda_function" {
    defaults = { arn = "arn:aws:lambda:eu-central-1:111122223333:function:submitter" }
  }
  mock_resource "aws_iam_role" {
    defaults = { arn = "arn:aws:iam::111122223333:role/submitter" }
  }
  mock_resource "aws_sqs_queue" {
    defaults = { arn = "arn:aws:sqs:eu-central-1:111122223333:failures" }
  }
  mock_resource "aws_cloudwatch_log_group" {
    defaults = { arn = "arn:aws:logs:eu-central-1:111122223333:log-group:submitter" }
  }
}

variables {
  name                      = "face-worker-test"
  service                   = "detection"
  zip_path                  = "./tests/package.zip"
  queue_url                 = "https://sqs.eu-central-1.amazonaws.com/111122223333/face-worker-test-detection"
  queue_arn                 = "arn:aws:sqs:eu-central-1:111122223333:face-worker-test-detection"
  job_queue_arn             = "arn:aws:batch:eu-central-1:111122223333:job-queue/face-worker-test-detection"
  job_definition_name       = "face-worker-test-detection"
  job_definition_arn_prefix = "arn:aws:batch:eu-central-1:111122223333:job-definition/face-worker-test-detection"
  messages_per_job          = 2000
  max_jobs                  = 20
  traffic_share             = 25
}

run "one_at_a_time_each_minute_without_retries" {
  assert {
    condition     = aws_lambda_function.submitter.reserved_concurrent_executions == 1
    error_message = "Two submitters at once submit the same jobs twice."
  }

  assert {
    condition = (
      aws_scheduler_schedule.tick.schedule_expression == "rate(1 minute)"
      && aws_scheduler_schedule.tick.target[0].retry_policy[0].maximum_retry_attempts == 0
      && aws_lambda_function_event_invoke_config.submitter.maximum_retry_attempts == 0
    )
    error_message = "A call is repeated though the next minute looks anew."
  }
}

run "a_call_tells_the_minute_it_is_for" {
  assert {
    condition     = strcontains(aws_scheduler_schedule.tick.target[0].input, "<aws.scheduler.scheduled-time>")
    error_message = "Scheduler finds no word to replace by the time."
  }
}

run "the_function_gets_every_setting_it_reads" {
  assert {
    condition = aws_lambda_function.submitter.environment[0].variables == tomap({
      QUEUE_URL        = var.queue_url
      JOB_QUEUE        = var.job_queue_arn
      JOB_DEFINITION   = "face-worker-test-detection"
      JOB_NAME         = "face-worker-test-detection"
      MESSAGES_PER_JOB = "2000"
      MAX_JOBS         = "20"
      TRAFFIC_SHARE    = "25"
    })
    error_message = "The function's settings are not those it reads."
  }
}

run "it_may_do_its_work_and_nothing_else" {
  assert {
    condition = toset(flatten([for s in data.aws_iam_policy_document.function.statement : s.actions])) == toset([
      "sqs:GetQueueAttributes", "batch:SubmitJob", "batch:ListJobs",
      "logs:CreateLogStream", "logs:PutLogEvents", "sqs:SendMessage",
    ])
    error_message = "The function may do more, or less, than it has to."
  }

  assert {
    condition = alltrue([
      for s in data.aws_iam_policy_document.function.statement :
      !contains(s.resources, "*") || s.sid == "CountJobs"
    ])
    error_message = "A permission is for all resources though its action can name them."
  }
}

run "a_share_above_100_is_refused" {
  command = plan
  variables {
    traffic_share = 101
  }
  expect_failures = [var.traffic_share]
}

run "a_share_below_0_is_refused" {
  command = plan
  variables {
    traffic_share = -1
  }
  expect_failures = [var.traffic_share]
}

run "a_broken_share_is_refused" {
  command = plan
  variables {
    traffic_share = 12.5
  }
  expect_failures = [var.traffic_share]
}

run "half_a_job_is_refused" {
  command = plan
  variables {
    max_jobs = 0.5
  }
  expect_failures = [var.max_jobs]
}

run "more_jobs_than_an_array_holds_are_refused" {
  command = plan
  variables {
    max_jobs = 10001
  }
  expect_failures = [var.max_jobs]
}

run "another_service_is_refused" {
  command = plan
  variables {
    service = "search"
  }
  expect_failures = [var.service]
}
