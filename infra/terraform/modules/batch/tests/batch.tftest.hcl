mock_provider "aws" {
  mock_data "aws_region" {
    defaults = { name = "eu-central-1" }
  }
  mock_resource "aws_launch_template" {
    defaults = { id = "lt-0123456789abcdef0", latest_version = 3 }
  }
  mock_resource "aws_batch_compute_environment" {
    defaults = { arn = "arn:aws:batch:eu-central-1:111122223333:compute-environment/machines" }
  }
}

variables {
  name                 = "face-worker-test"
  subnet_ids           = ["subnet-1", "subnet-2"]
  security_group_ids   = ["sg-1"]
  instance_profile_arn = "arn:aws:iam::111122223333:instance-profile/batch"
  service_role_arn     = "arn:aws:iam::111122223333:role/aws-service-role/batch.amazonaws.com/AWSServiceRoleForBatch"
  tags                 = { Owner = "photos" }
  services = {
    detection = {
      image              = "111122223333.dkr.ecr.eu-central-1.amazonaws.com/face-worker:abc"
      vcpus              = 4
      memory_mib         = 14500
      gpus               = 1
      job_role_arn       = "arn:aws:iam::111122223333:role/detection"
      execution_role_arn = "arn:aws:iam::111122223333:role/execution"
      environment        = { QUEUE_URL = "https://sqs.eu-central-1.amazonaws.com/111122223333/q" }
      secrets            = { HUEMN_MONGO_URI = "arn:aws:secretsmanager:eu-central-1:111122223333:secret:m-abc" }
      primary            = { instance_types = ["g4dn.xlarge", "g5.xlarge"], max_vcpus = 64 }
      secondary          = { instance_types = ["g4dn.xlarge"], max_vcpus = 16 }
    }
    grouping = {
      image              = "111122223333.dkr.ecr.eu-central-1.amazonaws.com/face-worker:abc"
      vcpus              = 4
      memory_mib         = 7500
      shared_memory_mib  = 64
      job_role_arn       = "arn:aws:iam::111122223333:role/grouping"
      execution_role_arn = "arn:aws:iam::111122223333:role/execution"
      primary            = { instance_types = ["c5.xlarge", "m5.xlarge"], max_vcpus = 16 }
    }
  }
}

run "spot_first_and_on_demand_where_there_is_none" {
  assert {
    condition = alltrue([
      aws_batch_compute_environment.machines["detection-primary"].compute_resources[0].type == "SPOT",
      aws_batch_compute_environment.machines["detection-primary"].compute_resources[0].allocation_strategy == "SPOT_PRICE_CAPACITY_OPTIMIZED",
      aws_batch_compute_environment.machines["detection-secondary"].compute_resources[0].type == "EC2",
      aws_batch_compute_environment.machines["detection-secondary"].compute_resources[0].allocation_strategy == "BEST_FIT_PROGRESSIVE",
    ])
    error_message = "Machines are not bought as the module says."
  }

  assert {
    condition     = length(aws_batch_job_queue.service["detection"].compute_environment_order) == 2 && length(aws_batch_job_queue.service["grouping"].compute_environment_order) == 1
    error_message = "A queue does not use the machines of its service."
  }

  assert {
    condition     = alltrue([for e in aws_batch_compute_environment.machines : e.compute_resources[0].bid_percentage == null && e.compute_resources[0].min_vcpus == 0])
    error_message = "A bid only loses capacity, and an idle night must cost nothing."
  }
}

run "gpu_machines_only_where_gpus_are_asked_for" {
  assert {
    condition = (
      aws_batch_compute_environment.machines["detection-primary"].compute_resources[0].ec2_configuration[0].image_type == "ECS_AL2023_NVIDIA"
      && aws_batch_compute_environment.machines["grouping-primary"].compute_resources[0].ec2_configuration[0].image_type == "ECS_AL2023"
    )
    error_message = "The AMI does not fit the service."
  }

  assert {
    condition = (
      contains(jsondecode(aws_batch_job_definition.service["detection"].container_properties).resourceRequirements, { type = "GPU", value = "1" })
      && !contains([for r in jsondecode(aws_batch_job_definition.service["grouping"].container_properties).resourceRequirements : r.type], "GPU")
    )
    error_message = "A job reserves the wrong number of GPUs."
  }
}

run "metadata_needs_a_token_and_disks_are_encrypted" {
  assert {
    condition = alltrue([
      for t in aws_launch_template.instance :
      t.metadata_options[0].http_tokens == "required" && t.block_device_mappings[0].ebs[0].encrypted == "true"
    ])
    error_message = "An instance answers to IMDSv1 or has a plain disk."
  }

  assert {
    condition     = alltrue([for t in aws_launch_template.instance : strcontains(base64decode(t.user_data), "ECS_CONTAINER_STOP_TIMEOUT=110s")])
    error_message = "The agent kills a worker before it has finished what it started."
  }
}

run "a_job_drains_its_queue_locked_down" {
  assert {
    condition = alltrue([
      for name, d in aws_batch_job_definition.service : alltrue([
        contains(jsondecode(d.container_properties).environment, { name = "WORKER_MODE", value = "drain" }),
        contains(jsondecode(d.container_properties).environment, { name = "SERVICE_TYPE", value = name }),
        contains(jsondecode(d.container_properties).environment, { name = "WATCH_SPOT_NOTICE", value = "true" }),
        jsondecode(d.container_properties).readonlyRootFilesystem,
        jsondecode(d.container_properties).linuxParameters.initProcessEnabled,
        jsondecode(d.container_properties).user == "10001:10001",
        !jsondecode(d.container_properties).privileged,
        jsondecode(d.container_properties).logConfiguration.options.mode == "non-blocking",
      ])
    ])
    error_message = "A job is not set up as the workers need."
  }

  assert {
    condition = (
      jsondecode(aws_batch_job_definition.service["detection"].container_properties).linuxParameters.sharedMemorySize == 2048
      && jsondecode(aws_batch_job_definition.service["grouping"].container_properties).linuxParameters.sharedMemorySize == 64
    )
    error_message = "Shared memory is not as asked for."
  }

  assert {
    condition     = jsondecode(aws_batch_job_definition.service["detection"].container_properties).secrets == [{ name = "HUEMN_MONGO_URI", valueFrom = "arn:aws:secretsmanager:eu-central-1:111122223333:secret:m-abc" }]
    error_message = "A secret does not come from Secrets Manager."
  }
}

run "only_a_lost_host_begins_a_job_again" {
  assert {
    condition = alltrue([
      for d in aws_batch_job_definition.service : (
        [for rule in d.retry_strategy[0].evaluate_on_exit : upper(rule.action)] == ["RETRY", "EXIT", "EXIT"]
        && d.retry_strategy[0].evaluate_on_exit[0].on_status_reason == "Host EC2*"
        && d.timeout[0].attempt_duration_seconds == 14400
      )
    ])
    error_message = "Jobs are begun again for other reasons, or never stopped."
  }
}

run "a_job_that_can_never_start_is_cancelled" {
  assert {
    condition = alltrue([
      for q in aws_batch_job_queue.service :
      alltrue([for a in q.job_state_time_limit_action : startswith(a.reason, "MISCONFIGURATION:") && a.action == "CANCEL"])
      && length(q.job_state_time_limit_action) == 2
    ])
    error_message = "A blocked queue stays blocked, or jobs that only wait for capacity are cancelled."
  }
}

run "one_type_of_spot_machine_is_refused" {
  command = plan
  variables {
    services = {
      detection = merge(var.services.detection, { primary = { instance_types = ["g4dn.xlarge"], max_vcpus = 64 } })
    }
  }
  expect_failures = [var.services]
}

run "a_gpu_service_on_cpu_machines_is_refused" {
  command = plan
  variables {
    services = {
      detection = merge(var.services.detection, { primary = { instance_types = ["c5.xlarge", "m5.xlarge"], max_vcpus = 64 } })
    }
  }
  expect_failures = [var.services]
}

run "more_shared_memory_than_memory_is_refused" {
  command = plan
  variables {
    services = { grouping = merge(var.services.grouping, { shared_memory_mib = 8000 }) }
  }
  expect_failures = [var.services]
}

run "an_unknown_service_is_refused" {
  command = plan
  variables {
    services = { search = var.services.grouping }
  }
  expect_failures = [var.services]
}

run "settings_of_the_module_cannot_be_overridden" {
  command = plan
  variables {
    services = { grouping = merge(var.services.grouping, { environment = { WORKER_MODE = "service" } }) }
  }
  expect_failures = [var.services]
}

run "eleven_attempts_are_refused" {
  command = plan
  variables {
    services = { grouping = merge(var.services.grouping, { attempts = 11 }) }
  }
  expect_failures = [var.services]
}
