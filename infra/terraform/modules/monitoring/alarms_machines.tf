# Whether the machines are there, fit, and used.

locals {
  gpu_services       = { for service, s in var.services : service => s if s.gpu }
  ecs_services       = { for service, s in var.services : service => s if var.ecs_enabled && s.ecs_service_name != "" }
  submitted_services = { for service, s in var.services : service => s if var.batch_enabled && s.submitter_function_name != "" }

  task_metrics = {
    for service, s in local.ecs_services : service => {
      for id, name in { desired = "DesiredTaskCount", running = "RunningTaskCount" } : id => {
        namespace               = "ECS/ContainerInsights"
        name                    = name
        dimensions              = { ClusterName = var.ecs_cluster_name, ServiceName = s.ecs_service_name }
        statistic               = "Average"
      }
    }
  }

  submitter_metrics = {
    for service, s in local.submitted_services : service => {
      for id, name in { errors = "Errors", calls = "Invocations" } : id => {
        namespace              = "AWS/Lambda"
        name                   = name
        dimensions             = { FunctionName = s.submitter_function_name }
        statistic              = "Sum"
      }
    }
  }

  # What most of these have in common: five minutes above a bar.
  level_alarm = {
    label      = ""
    expression = null
    below      = false
    period_s   = 60
    periods    = 5
    of_them    = 5
    missing    = "notBreaching" # no worker, no machine
    tells_ok   = true
  }

  machine_alarms = merge(
    {
      for service in keys(var.services) : "${service}-memory" => merge(local.level_alarm, {
        runbook   = "memory"
        says      = "A worker of ${service} uses ${var.memory_share * 100} % of its memory or more."
        metrics   = { m = local.worker_metrics[service].memory }
        threshold = var.memory_share
      })
    },
    {
      for service in keys(local.gpu_services) : "${service}-gpu-temperature" => merge(local.level_alarm, {
        runbook   = "gpu-temperature"
        says      = "A GPU of ${service} has ${var.gpu_temperature_c} °C or more."
        metrics   = { m = local.worker_metrics[service].temperature }
        threshold = var.gpu_temperature_c
      })
    },
    {
      for service in keys(local.gpu_services) : "${service}-gpu-idle" => merge(local.level_alarm, {
        runbook = "gpu-idle"
        says    = "Photos wait for ${service}, and its GPUs are hardly used, or not at all."
        label   = "1 where photos wait and GPUs are idle"
        # A machine whose GPU is not seen reports no utilisation, and is paid for all the same.
        expression = "IF(waiting > 100 AND FILL(gpu, 0) < 10, 1, 0)"
        metrics    = { waiting = local.queue_metrics[service].waiting, gpu = local.worker_metrics[service].gpu }
        threshold  = 1
        period_s   = 300
        periods    = 4 # longer than a start from zero
        of_them    = 4
      })
    },
    {
      for service in keys(local.ecs_services) : "${service}-tasks-missing" => merge(local.level_alarm, {
        runbook    = "tasks-missing"
        says       = "Fewer tasks of ${service} run than ECS wants, for 15 minutes."
        label      = "tasks that are wanted and don't run"
        expression = "desired - running"
        metrics    = local.task_metrics[service]
        threshold  = 1
        periods    = 15
        of_them    = 15
        missing    = "notBreaching" # Container Insights says nothing of a service at zero tasks
      })
    },
    {
      for service in keys(local.submitted_services) : "${service}-submitter-errors" => merge(local.level_alarm, {
        runbook   = "submitter-errors"
        says      = "The submitter of ${service} fails: no Batch job begins."
        metrics   = { m = local.submitter_metrics[service].errors }
        threshold = 1
        of_them   = 3              # a single failure is made good by the next minute
        missing   = "notBreaching" # no call, no error; that is submitter-silent
      })
    },
    {
      for service in keys(local.submitted_services) : "${service}-submitter-silent" => merge(local.level_alarm, {
        runbook   = "submitter-silent"
        says      = "The submitter of ${service} was not called for 15 minutes: no Batch job begins."
        metrics   = { m = local.submitter_metrics[service].calls }
        threshold = 1
        below     = true
        period_s  = 300
        periods   = 3
        of_them   = 3
        missing   = "breaching" # it is called each minute, so silence is the failure
      })
    },
  )

  # An event is over when it is told; nobody needs to hear that it is "OK" again.
  event_alarm = merge(local.level_alarm, {
    threshold = 1
    period_s  = 300
    periods   = 1
    of_them   = 1
    tells_ok  = false
  })

  event_says = {
    spot-interruptions = "${var.spot_interruptions} Spot machines or more were taken back within 15 minutes."
    gpu-failed         = "A worker ended with exit code 20: the GPU of its machine is broken."
    deployment-failed  = "A deployment to ECS failed."
    tasks-cannot-start = "Tasks of a service end again and again as they start."
    jobs-failed        = "A Batch job failed."
    job-queue-blocked  = "The job at the head of a Batch queue can't start, and those behind it wait."
  }

  event_alarms = {
    for key in keys(local.event_patterns) : key => merge(
      local.event_alarm,
      {
        runbook = key
        says    = local.event_says[key]
        metrics = {
          m = {
            namespace  = "AWS/Events"
            name       = "TriggeredRules"
            dimensions = { RuleName = "${var.name}-${key}" }
            statistic  = "Sum"
          }
        }
      },
      key == "spot-interruptions" ? { threshold = var.spot_interruptions, period_s = 900 } : { threshold = 1, period_s = 300 },
    )
  }
}
