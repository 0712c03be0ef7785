# Job queues and definitions. A job is a worker that drains its service's queue and ends.

data "aws_region" "current" {}

locals {
  # Reasons for which a job at the head of the queue can never start: it would block those behind it for ever, and the
  # submitter would wait for it. Lack of capacity is none of them: that job starts as soon as there is some.
  # https://docs.aws.amazon.com/batch/latest/userguide/job_stuck_in_runnable.html
  cannot_start = [
    "MISCONFIGURATION:COMPUTE_ENVIRONMENT_MAX_RESOURCE",
    "MISCONFIGURATION:JOB_RESOURCE_REQUIREMENT",
  ]
}

resource "aws_batch_job_queue" "service" {
  for_each = var.services

  name     = "${var.name}-${each.key}"
  state    = "ENABLED"
  priority = 1

  dynamic "compute_environment_order" {
    # In the order of their names: primary, then secondary.
    for_each = sort([for key, machines in local.machines : key if machines.service == each.key])

    content {
      order               = compute_environment_order.key + 1
      compute_environment = aws_batch_compute_environment.machines[compute_environment_order.value].arn
    }
  }

  dynamic "job_state_time_limit_action" {
    for_each = local.cannot_start

    content {
      action           = "CANCEL"
      max_time_seconds = 600 # the least that Batch allows
      reason           = job_state_time_limit_action.value
      state            = "RUNNABLE"
    }
  }

  tags = var.tags
}

resource "aws_batch_job_definition" "service" {
  for_each = var.services

  name                  = "${var.name}-${each.key}"
  type                  = "container"
  platform_capabilities = ["EC2"]
  propagate_tags        = true
  tags                  = var.tags

  # What is left undone is in the SQS queue, and the submitter's next minute begins a job for it. So only a lost host is
  # a reason to begin the same job again. Exit code 20, a broken GPU, is not: the attempt would commonly go to the same
  # machine, the one that is free. The last two rules end what no other rule names, and both are needed: a rule
  # matches only what is there, not every attempt has a reason, and without a match Batch begins again.
  retry_strategy {
    attempts = each.value.attempts

    evaluate_on_exit {
      on_status_reason = "Host EC2*"
      action           = "RETRY"
    }

    evaluate_on_exit {
      on_reason = "*"
      action    = "EXIT"
    }

    evaluate_on_exit {
      on_status_reason = "*"
      action           = "EXIT"
    }
  }

  timeout {
    attempt_duration_seconds = each.value.attempt_seconds
  }

  container_properties = jsonencode(local.containers[each.key])
}

locals {
  containers = {
    for name, service in var.services : name => {
      image            = service.image
      jobRoleArn       = service.job_role_arn
      executionRoleArn = service.execution_role_arn
      user             = "${local.worker_id}:${local.worker_id}"
      privileged       = false

      resourceRequirements = concat(
        [
          { type = "VCPU", value = tostring(service.vcpus) },
          { type = "MEMORY", value = tostring(service.memory_mib) },
        ],
        # Batch refuses a GPU requirement of 0.
        [for count in [service.gpus] : { type = "GPU", value = tostring(count) } if count > 0],
      )

      environment = [
        for setting, value in merge(service.environment, service.drain_max_s == null ? {} : {
          DRAIN_MAX_S = tostring(service.drain_max_s)
          }, {
          SERVICE_TYPE      = name
          WORKER_MODE       = "drain"
          WATCH_SPOT_NOTICE = "true" # ECS's own draining tells tasks of services only
        }) : { name = setting, value = value }
      ]
      secrets = [for setting, arn in service.secrets : { name = setting, valueFrom = arn }]

      readonlyRootFilesystem = true
      linuxParameters = {
        initProcessEnabled = true # reaps children, and passes SIGTERM on
        sharedMemorySize   = service.shared_memory_mib
        tmpfs              = [{ containerPath = "/tmp", size = service.tmpfs_mib, mountOptions = ["nosuid", "nodev"] }]
      }
      volumes     = [{ name = "index", host = { sourcePath = local.index_dir } }]
      mountPoints = [{ sourceVolume = "index", containerPath = local.index_dir, readOnly = false }]

      logConfiguration = {
        logDriver = "awslogs"
        options = {
          awslogs-group         = aws_cloudwatch_log_group.jobs[name].name
          awslogs-region        = data.aws_region.current.name
          awslogs-stream-prefix = name
          # A worker that waits for its log would stop working whenever CloudWatch Logs does.
          mode            = "non-blocking"
          max-buffer-size = "25m"
        }
      }
    }
  }
}

resource "aws_cloudwatch_log_group" "jobs" {
  for_each = var.services

  #checkov:skip=CKV_AWS_338:a year by default; log_retention_days lets an environment for trials keep less
  name              = "/${var.name}/batch/${each.key}"
  retention_in_days = var.log_retention_days
  kms_key_id        = var.kms_key_arn
}
