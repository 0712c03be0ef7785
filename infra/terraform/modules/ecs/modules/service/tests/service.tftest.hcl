mock_provider "aws" {
  mock_data "aws_region" {
    defaults = { name = "eu-central-1" }
  }
  mock_resource "aws_ecs_task_definition" {
    defaults = { arn = "arn:aws:ecs:eu-central-1:111122223333:task-definition/detection:1" }
  }
  mock_resource "aws_appautoscaling_policy" {
    defaults = { arn = "arn:aws:autoscaling:eu-central-1:111122223333:scalingPolicy:1" }
  }
}

variables {
  name               = "face-worker-test-detection"
  service_type       = "detection"
  cluster_name       = "face-worker-test"
  cluster_arn        = "arn:aws:ecs:eu-central-1:111122223333:cluster/face-worker-test"
  capacity_provider  = "face-worker-test-gpu"
  image              = "111122223333.dkr.ecr.eu-central-1.amazonaws.com/face-worker:abc"
  task               = { cpu = 3584, memory_mib = 13312, gpus = 1, shared_memory_mib = 2048, tmpfs_mib = 512 }
  environment        = { QUEUE_URL = "https://sqs.eu-central-1.amazonaws.com/111122223333/q" }
  secrets            = { HUEMN_MONGO_URI = "arn:aws:secretsmanager:eu-central-1:111122223333:secret:m-abcdef" }
  execution_role_arn = "arn:aws:iam::111122223333:role/execution"
  task_role_arn      = "arn:aws:iam::111122223333:role/detection"
  scaling            = { min_tasks = 0, max_tasks = 5, latency_goal_s = 600, seconds_per_message = 0.5 }
  queue_name         = "face-worker-test-detection"
}

run "a_gpu_task_reserves_its_gpu" {
  assert {
    condition     = jsondecode(aws_ecs_task_definition.worker.container_definitions)[0].resourceRequirements == [{ type = "GPU", value = "1" }]
    error_message = "no GPU is reserved"
  }
}

run "a_cpu_task_asks_for_none" {
  variables {
    task = { cpu = 1024, memory_mib = 8192, gpus = 0, shared_memory_mib = 2048, tmpfs_mib = 512 }
  }
  assert {
    condition     = jsondecode(aws_ecs_task_definition.worker.container_definitions)[0].resourceRequirements == null
    error_message = "a GPU is reserved"
  }
}

run "secrets_are_named_and_not_shown" {
  assert {
    condition = jsondecode(aws_ecs_task_definition.worker.container_definitions)[0].secrets == [
      { name = "HUEMN_MONGO_URI", valueFrom = "arn:aws:secretsmanager:eu-central-1:111122223333:secret:m-abcdef" }
    ]
    error_message = "the secret is missing"
  }
}

run "the_goal_and_the_seconds_make_the_target" {
  assert {
    condition     = aws_appautoscaling_policy.backlog.target_tracking_scaling_policy_configuration[0].target_value == 600
    error_message = "half of 600 s at 0.5 s a message are 600 messages"
  }
  assert {
    condition     = aws_appautoscaling_policy.backlog.target_tracking_scaling_policy_configuration[0].scale_out_cooldown == 60 && aws_appautoscaling_policy.backlog.target_tracking_scaling_policy_configuration[0].scale_in_cooldown == 300
    error_message = "the cooldowns are others"
  }
  assert {
    condition = contains([
      for metric in aws_appautoscaling_policy.backlog.target_tracking_scaling_policy_configuration[0].customized_metric_specification[0].metrics : metric.expression if metric.expression != null
    ], "IF(FILL(m2, 0) > 0, m1 / m2, m1)")
    error_message = "the work is not that of each wanted task"
  }
}

run "the_time_for_the_work_may_be_said" {
  variables {
    scaling = { min_tasks = 0, max_tasks = 5, latency_goal_s = 600, drain_s = 120, seconds_per_message = 0.5 }
  }
  assert {
    condition     = aws_appautoscaling_policy.backlog.target_tracking_scaling_policy_configuration[0].target_value == 240
    error_message = "120 s at 0.5 s a message are 240 messages"
  }
  assert {
    condition = contains([
      for metric in aws_appautoscaling_policy.backlog.target_tracking_scaling_policy_configuration[0].customized_metric_specification[0].metrics : metric.expression if metric.expression != null
    ], "(FILL(visible, 0) + FILL(delayed, 0) + FILL(in_work, 0) + FILL(sent, 0) * 2) * 1")
    error_message = "what comes within two minutes does not count as work"
  }
}

run "the_time_for_the_work_is_a_part_of_the_goal" {
  command = plan
  variables {
    scaling = { min_tasks = 0, max_tasks = 5, latency_goal_s = 600, drain_s = 601, seconds_per_message = 0.5 }
  }
  expect_failures = [var.scaling]
}

run "without_a_share_at_batch_ecs_does_it_all" {
  assert {
    condition     = local.ecs_share == 1 && length(aws_cloudwatch_metric_alarm.wake) == 1
    error_message = "ECS is left less than all"
  }
}

run "messages_of_a_further_queue_start_the_first_task" {
  variables {
    wake_queue_names = ["face-worker-test-find"]
  }
  assert {
    condition = contains([
      for query in aws_cloudwatch_metric_alarm.wake[0].metric_query : query.expression if query.expression != null
    ], "IF(FILL(m2, 0) < 1 AND (FILL(visible, 0) + FILL(delayed, 0) + FILL(other0, 0)) > 0, 1, 0)")
    error_message = "a guest wakes nobody"
  }
  assert {
    condition = contains([
      for query in aws_cloudwatch_metric_alarm.wake[0].metric_query : one(query.metric[*].dimensions["QueueName"]) if query.id == "other0"
    ], "face-worker-test-find")
    error_message = "another queue is looked at"
  }
}

run "with_all_at_batch_no_task_is_kept_and_none_is_woken" {
  variables {
    traffic_share = 100
    scaling       = { min_tasks = 2, max_tasks = 5, latency_goal_s = 600, seconds_per_message = 0.5 }
  }
  assert {
    condition     = local.ecs_share == 0 && aws_appautoscaling_target.tasks.min_capacity == 0
    error_message = "ECS keeps tasks"
  }
  assert {
    condition     = length(aws_cloudwatch_metric_alarm.wake) == 0
    error_message = "tasks are woken for work that is Batch's"
  }
}

run "a_task_that_is_always_there_needs_no_waking" {
  variables {
    scaling = { min_tasks = 1, max_tasks = 5, latency_goal_s = 600, seconds_per_message = 0.5 }
  }
  assert {
    condition     = length(aws_cloudwatch_metric_alarm.wake) == 0
    error_message = "there is an alarm for nothing"
  }
}

run "a_lone_task_can_be_stopped_at_once" {
  assert {
    condition     = aws_ecs_service.worker.deployment_minimum_healthy_percent == 0 && aws_ecs_service.worker.deployment_maximum_percent == 200
    error_message = "a Spot interruption would wait for a replacement"
  }
}

run "of_two_tasks_one_goes_on" {
  variables {
    scaling = { min_tasks = 2, max_tasks = 5, latency_goal_s = 600, seconds_per_message = 0.5 }
  }
  assert {
    condition     = aws_ecs_service.worker.deployment_minimum_healthy_percent == 50
    error_message = "a deployment would stop all"
  }
}

run "a_deployment_that_fails_goes_back" {
  assert {
    condition     = aws_ecs_service.worker.deployment_circuit_breaker[0].enable && aws_ecs_service.worker.deployment_circuit_breaker[0].rollback
    error_message = "a broken image would stay"
  }
}

run "one_task_an_instance_is_a_constraint" {
  variables {
    one_task_an_instance = true
  }
  assert {
    condition     = [for constraint in aws_ecs_service.worker.placement_constraints : constraint.type] == ["distinctInstance"]
    error_message = "tasks share machines"
  }
}

run "a_collector_stands_beside_the_worker_and_is_told_of" {
  variables {
    collector_image = "public.ecr.aws/aws-observability/aws-otel-collector:v0.43.3"
  }
  assert {
    condition     = [for container in jsondecode(aws_ecs_task_definition.worker.container_definitions) : container.name] == ["worker", "collector"]
    error_message = "there is no collector"
  }
  assert {
    condition     = contains(jsondecode(aws_ecs_task_definition.worker.container_definitions)[0].environment, { name = "TRACES_ENDPOINT", value = "http://collector:4318" })
    error_message = "the worker does not know of it"
  }
}

run "a_moving_tag_is_refused" {
  command = plan
  variables {
    image = "111122223333.dkr.ecr.eu-central-1.amazonaws.com/face-worker:latest"
  }
  expect_failures = [var.image]
}

run "a_mongo_uri_in_plain_sight_is_refused" {
  command = plan
  variables {
    environment = { HUEMN_MONGO_URI = "mongodb://user:password@host" }
  }
  expect_failures = [var.environment]
}

run "numbers_out_of_range_are_refused" {
  command = plan
  variables {
    task                    = { cpu = 1024, memory_mib = 2048, gpus = 2, shared_memory_mib = 2048, tmpfs_mib = 512 }
    scaling                 = { min_tasks = 6, max_tasks = 5, latency_goal_s = 1, seconds_per_message = 60 }
    traffic_share           = 101
    minimum_healthy_percent = 100
  }
  expect_failures = [var.task, var.scaling, var.traffic_share, var.minimum_healthy_percent]
}
